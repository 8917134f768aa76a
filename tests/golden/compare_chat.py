"""Templates through the library and through transformers, over many messages, tools and variables: equal texts, or
an error in both.   compare_chat.py LIBRARY FILE.jinja..."""
import collections, os, sys, time
import chat_shapes as shapes
from quipu_chat import Quipu, reference

os.environ["TZ"] = "UTC"
time.tzset()
quipu = Quipu(sys.argv[1])
call = lambda number, name, arguments: {"id": f"call_{number}0000"[:9], "type": "function", "function": {"name": name, "arguments": arguments}}
MESSAGES = shapes.MESSAGES | {
    "reasoning": [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "x", "reasoning_content": "because"},
                  {"role": "user", "content": "r"}, {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": [call(1, "add", {"a": 1, "b": True}), call(2, "get_weather", {"city": "Bern"})]},
                  {"role": "tool", "tool_call_id": "call_1000", "name": "add", "content": "2"}, {"role": "tool", "tool_call_id": "call_2000", "name": "get_weather", "content": '{"t": 1}'}],
    "text": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call(1, "add", '{"a": 1}')]}, {"role": "tool", "tool_call_id": "call_1000", "content": "2"}, {"role": "user", "content": "z"}],
    "developer": [{"role": "developer", "content": "D"}, {"role": "user", "content": "q"}],
}
NESTED = [{"type": "function", "function": {"name": "f", "description": "d", "strict": True, "parameters": {"type": "object", "required": ["x"], "additionalProperties": False, "properties": {
    "x": {"type": "string", "enum": ["a", "b"], "default": "a"}, "y": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "o": {"type": "object", "properties": {"z": {"type": "number"}}, "required": ["z"]},
    "l": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}}, "r": {"$ref": "#/x"}}}}}]
VARIABLES = [None, {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"},
             {"enable_thinking": False, "thinking": False, "add_vision_id": True, "keep_past_thinking": True, "preserve_thinking": True}]
total = collections.Counter()
for path in sys.argv[2:]:
    template, shown = open(path, newline="").read(), False
    for key, messages in MESSAGES.items():
        for tools in (None, shapes.TOOLS, NESTED):
            for variables in VARIABLES:
                for generation in (False, True):
                    args = dict(tools=tools, variables=variables, generation=generation, now=shapes.NOW)
                    text, error = reference(template, messages, shapes.TOKENS, **args)
                    ours, our_error = quipu.render(template, messages, shapes.TOKENS, **args)
                    total["differ" if text != ours else "errors in both" if text is None else "equal"] += 1
                    if text != ours and not shown:
                        shown = True
                        print(f"--- {path} {key} tools={bool(tools)} {variables} {generation}\n theirs {text!r} {error}\n ours   {ours!r} {our_error}")
print(len(sys.argv) - 2, "templates:", dict(total))
sys.exit(total["differ"] > 0)
