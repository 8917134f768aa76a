"""The API through OpenAI's client, and lm-eval on a task of its own.   clients.py QUIPU MODEL TEMPLATE"""
import json, math, os, subprocess, sys, tempfile
import openai
from server import Server


def refused(status, code, ask):
    try:
        ask()
    except openai.APIStatusError as e:
        assert e.status_code == status and (code is None or e.code == code), (e.status_code, e.code, e.message)
    else:
        raise AssertionError(f"expected {status}")


def talk(client, model):
    chat, hello = client.chat.completions.create, [{"role": "user", "content": "Hello"}]
    assert [m.id for m in client.models.list()] == [model]
    whole = chat(model="x", messages=hello, temperature=0, max_tokens=20)
    text, choice = whole.choices[0].message.content, whole.choices[0]
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length") and text
    assert whole.usage.completion_tokens <= 20 and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    pieces = list(chat(model="x", messages=hello, temperature=0, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == text and len(pieces) > 3
    assert pieces[0].choices[0].delta.role == "assistant" and pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == choice.finish_reason

    scored = chat(model="x", messages=hello, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(scored) == 5
    for token in scored:  # greedy: the likeliest is what is written
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token and token.logprob <= 0
        assert sum(math.exp(t.logprob) for t in token.top_logprobs) <= 1.0001

    several = chat(model="x", messages=hello, n=3, seed=5, max_tokens=12, temperature=1)
    assert [c.index for c in several.choices] == [0, 1, 2] and len({c.message.content for c in several.choices}) > 1
    again = chat(model="x", messages=hello, n=3, seed=5, max_tokens=12, temperature=1)
    assert [c.message.content for c in again.choices] == [c.message.content for c in several.choices]
    parts = chat(model="x", messages=[{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}], temperature=0, max_tokens=20)
    assert parts.choices[0].message.content == text

    complete = client.completions.create
    plain = complete(model="x", prompt="The ", temperature=0, max_tokens=8, echo=True, logprobs=2)
    logprobs = plain.choices[0].logprobs
    assert plain.choices[0].text.startswith("The ") and logprobs.token_logprobs[0] is None and len(logprobs.tokens) == len(logprobs.token_logprobs)
    assert "".join(logprobs.tokens).startswith("The ") and logprobs.text_offset[0] == 0
    ids = client.post("/../tokenize", cast_to=object, body={"prompt": "The "})["tokens"]
    assert complete(model="x", prompt=ids, temperature=0, max_tokens=8).choices[0].text == plain.choices[0].text[4:]
    assert [c.text for c in complete(model="x", prompt=["The ", ids], temperature=0, max_tokens=8).choices] == [plain.choices[0].text[4:]] * 2
    stopped = complete(model="x", prompt="The ", temperature=0, max_tokens=8, stop=plain.choices[0].text[5:7])
    assert stopped.choices[0].finish_reason == "stop" and len(stopped.choices[0].text) < len(plain.choices[0].text)

    vectors = client.embeddings.create(model="x", input=["The quick fox", "The"])
    assert [v.index for v in vectors.data] == [0, 1] and abs(sum(x * x for x in vectors.data[1].embedding)) > 0
    by_ids = client.embeddings.create(model="x", input=[ids, ids])
    by_text = client.embeddings.create(model="x", input="The ")
    assert by_ids.data[0].embedding == by_ids.data[1].embedding == by_text.data[0].embedding
    assert client.embeddings.create(model="x", input=ids).data[0].embedding == by_text.data[0].embedding

    refused(413, "context_length_exceeded", lambda: chat(model="x", messages=[{"role": "user", "content": "word " * 20000}]))
    refused(413, "body_too_large", lambda: chat(model="x", messages=[{"role": "user", "content": "x" * 5000000}]))
    refused(400, None, lambda: chat(model="x", messages=[]))
    refused(400, None, lambda: chat(model="x", messages=hello, temperature="hot"))
    refused(400, None, lambda: chat(model="x", messages=hello, response_format={"type": "json_object"}))
    refused(404, None, lambda: client.images.generate(model="x", prompt="y"))
    with chat(model="x", messages=hello, stream=True, max_tokens=900) as stream:  # leaving in the middle
        next(iter(stream))


TASK = {"task": "local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "FOLDER/task.jsonl"}}, "test_split": "test", "output_type": "multiple_choice",
        "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}]}
QUESTIONS = [("The cat sat on the", ["mat", "of and"], 0), ("Two and two make", ["four", "seventeen"], 0), ("Water is", ["xqz", "wet"], 1), ("quipu is a", ["cord", "zzzz"], 0)]


def loglikelihood(client, question, answer):
    """The same by hand: the logprobs of the answer's tokens behind the question."""
    l = client.completions.create(model="x", prompt=question + " " + answer, max_tokens=1, echo=True, logprobs=1, temperature=0).choices[0].logprobs
    return sum(p for p, at in zip(l.token_logprobs[:-1], l.text_offset) if at >= len(question))


def evaluate(client, url, model):
    """lm-eval's choices are those of the logprobs."""
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/task.jsonl", "w") as f:
            for question, choices, answer in QUESTIONS: f.write(json.dumps({"question": question, "choices": choices, "answer": answer}) + "\n")
        with open(folder + "/local.yaml", "w") as f: f.write(json.dumps(TASK).replace("FOLDER", folder))
        run = subprocess.run([sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args",
                        f"model={model},base_url={url}/v1/completions,tokenizer_backend=huggingface,tokenizer={sys.argv[2]},tokenized_requests=True,num_concurrent=2,max_length=512",
                        "--tasks", "local", "--include_path", folder, "--output_path", folder + "/out", "--log_samples"], capture_output=True, text=True,
                       env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder + "/cache", "TRANSFORMERS_OFFLINE": "1"})
        assert run.returncode == 0, run.stderr[-3000:]
        samples = []
        for base, _, names in os.walk(folder + "/out"):
            for name in names:
                if name.startswith("samples_"): samples = [json.loads(line) for line in open(os.path.join(base, name))]
        assert len(samples) == len(QUESTIONS), samples
        for s in samples:
            question, choices, _ = QUESTIONS[s["doc_id"]]
            theirs = [float(r[0][0]) for r in s["resps"]]
            ours = [loglikelihood(client, question, c) for c in choices]
            assert all(abs(a - b) < 1e-3 for a, b in zip(theirs, ours)), (question, theirs, ours)


with Server(*sys.argv[1:4]) as server:
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    talk(client, server.model)
    server.until_idle()
    evaluate(client, server.url, server.model)
    server.restart(key="sesame")
    refused(401, "invalid_api_key", lambda: list(client.models.list()))
    assert list(openai.OpenAI(base_url=server.url + "/v1", api_key="sesame").models.list())
print("openai and lm-eval: as expected")
