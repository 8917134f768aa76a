"""Writes tests/golden/chat/*.json: what transformers renders.   make_chat.py [LIBRARY]
With a library (build/libquipu.so) it also compares at once."""
import json, os, sys, time
import chat_shapes as shapes
from quipu_chat import Quipu, reference

os.environ["TZ"] = "UTC"
time.tzset()
quipu = Quipu(sys.argv[1]) if len(sys.argv) > 1 else None
cases = wrong = 0
for name, template in shapes.TEMPLATES.items():
    out = {"tokens": shapes.TOKENS, "now": shapes.NOW, "cases": []}
    for key, messages in shapes.MESSAGES.items():
        for tools in (None, shapes.TOOLS):
            for variables in (None, {"enable_thinking": False, "tools_in_user_message": False}):
                if variables and not any(v in template for v in variables):
                    continue
                if tools and "tool" not in template:
                    continue
                for generation in (False, True):
                    args = dict(tools=tools, variables=variables, generation=generation, now=shapes.NOW)
                    text, error = reference(template, messages, shapes.TOKENS, **args)
                    cases += 1
                    if quipu:
                        ours, our_error = quipu.render(template, messages, shapes.TOKENS, **args)
                        if ours != text:
                            wrong += 1
                            print(f"--- {name} {key} tools={bool(tools)} {variables} {generation}\n theirs {text!r} {error}\n ours   {ours!r} {our_error}")
                    out["cases"].append({"messages": key, "tools": bool(tools), "variables": variables, "generation": generation, "text": text})
    with open(f"{shapes.FOLDER}/{name}.json", "w") as f:
        json.dump(out, f, ensure_ascii=False, indent=0)
with open(f"{shapes.FOLDER}/inputs.json", "w") as f:
    json.dump({"messages": shapes.MESSAGES, "tools": shapes.TOOLS}, f, ensure_ascii=False, indent=0)
print(cases, "cases", wrong, "differ")
