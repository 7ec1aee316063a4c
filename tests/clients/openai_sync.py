"""The `openai` package, blocking."""
import openai

from tests.clients.doors import ENDLESS, KEY, QUESTION, Door, check, equal, expect

ANSWERS: dict[str, object] = {}  # by check: what the first door said, which the second has to say too


def client(door: Door, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=door.url + "/v1", **{"api_key": KEY, "max_retries": 0, "timeout": 60, **options})


def chat(door: Door, question: str = QUESTION, **fields):
    fields = {"model": "test", "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 32, **fields}
    return client(door).chat.completions.create(**fields)


def complete(door: Door, **fields):
    return client(door).completions.create(**{"model": "test", "prompt": QUESTION, "temperature": 0, "max_tokens": 12, **fields})


def same_at_both_doors(name: str, answer) -> None:
    equal(answer, ANSWERS.setdefault(name, answer), f"{name}: the doors differ")


def raises(kind: type, function) -> openai.APIStatusError:
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


@check
def models_are_listed(door: Door):
    models = client(door).models.list()
    equal([model.id for model in models], ["test"], "models")


@check
def a_chat_is_answered(door: Door):
    answer = chat(door)
    choice = answer.choices[0]
    expect("instrument" in choice.message.content, "the trained model's answer", choice.message.content)
    equal((choice.finish_reason, choice.message.role, answer.object), ("stop", "assistant", "chat.completion"), "choice")
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens, "usage")
    same_at_both_doors("chat", choice.message.content)


@check
def a_stream_joined_is_the_whole_chat(door: Door):
    whole = chat(door)
    chunks = list(chat(door, stream=True, stream_options={"include_usage": True}))
    equal("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), whole.choices[0].message.content, "text")
    equal([c.choices[0].finish_reason for c in chunks if c.choices][-1], whole.choices[0].finish_reason, "finish_reason")
    equal(chunks[0].choices[0].delta.role, "assistant", "role")
    equal(chunks[-1].choices, [], "the last chunk holds the usage alone")
    equal(chunks[-1].usage.model_dump(include={"prompt_tokens", "completion_tokens"}),
          whole.usage.model_dump(include={"prompt_tokens", "completion_tokens"}), "usage")
    equal(len({c.id for c in chunks}), 1, "one id")


@check
def the_librarys_own_accumulator_agrees(door: Door):
    with client(door).chat.completions.stream(model="test", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=32) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    expect("content.delta" in events and "content.done" in events, "events", events)
    equal(final.choices[0].message.content, chat(door).choices[0].message.content, "text")


@check
def a_completion_whole_and_streamed(door: Door):
    whole = complete(door)
    chunks = list(complete(door, stream=True))
    equal("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text, "text")
    equal(whole.choices[0].finish_reason, "length", "finish_reason")
    same_at_both_doors("completion", whole.choices[0].text)


@check
def logprobs_of_a_chat_have_tokens_and_bytes(door: Door):
    choice = chat(door, logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content  # the last one is the end of the turn, which has no text in the answer
    equal(b"".join(bytes(entry.bytes) for entry in entries[:-1]).decode(), choice.message.content, "bytes")
    for entry in entries:
        equal(len(entry.top_logprobs), 3, "top_logprobs")
        equal(entry.top_logprobs[0].token, entry.token, "greedy takes the most likely")
        expect(entry.logprob <= 0, "logprob", entry)
    streamed = [e for c in chat(door, logprobs=True, top_logprobs=3, stream=True) if c.choices and c.choices[0].logprobs
                for e in c.choices[0].logprobs.content]
    equal([e.model_dump() for e in streamed], [e.model_dump() for e in entries], "streamed")
    same_at_both_doors("logprobs", [e.model_dump() for e in entries])


@check
def logprobs_of_a_completion(door: Door):
    choice = complete(door, logprobs=2).choices[0]
    equal("".join(choice.logprobs.tokens), choice.text, "tokens")
    equal(len(choice.logprobs.token_logprobs), 12, "token_logprobs")
    equal({len(top) for top in choice.logprobs.top_logprobs}, {2}, "top_logprobs")
    same_at_both_doors("completion logprobs", choice.logprobs.model_dump())


@check
def n_choices_are_drawn_from_one_seed(door: Door):
    fields = dict(prompt="What", n=3, seed=7, temperature=1.2, max_tokens=10)
    first, second = complete(door, **fields), complete(door, **fields)
    texts = [choice.text for choice in first.choices]
    equal([choice.index for choice in first.choices], [0, 1, 2], "indices")
    equal([choice.text for choice in second.choices], texts, "the same seed")
    expect(len(set(texts)) > 1, "choices differ", texts)
    streamed = ["", "", ""]
    for chunk in complete(door, **fields, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    equal(streamed, texts, "streamed")
    same_at_both_doors("n", texts)


@check
def stop_strings_end_the_answer(door: Door):
    free = chat(door).choices[0].message.content
    for stop in (free[8:12], [free[8:12], "no such text"]):
        choice = chat(door, stop=stop).choices[0]
        equal((choice.message.content, choice.finish_reason), (free[: free.index(free[8:12])], "stop"), "answer")
    streamed = "".join(c.choices[0].delta.content or "" for c in chat(door, stop=free[8:12], stream=True) if c.choices)
    equal(streamed, free[: free.index(free[8:12])], "streamed")


@check
def fields_of_vllm_go_in_extra_body(door: Door):
    extra = {"min_p": 0.05, "top_k": 8, "return_token_ids": True, "min_tokens": 12, "ignore_eos": True, "repetition_penalty": 1.1}
    first, second = (complete(door, temperature=1, seed=3, extra_body=extra) for _ in range(2))
    equal(first.choices[0].text, second.choices[0].text, "the same seed")
    equal(len(first.choices[0].token_ids), 12, "token_ids")
    expect(len(first.choices[0].prompt_token_ids) > 0, "prompt_token_ids", first)
    again = complete(door, prompt=first.choices[0].prompt_token_ids, temperature=1, seed=3, extra_body=extra)
    equal(again.choices[0].text, first.choices[0].text, "the prompt as its token ids")
    greedy = complete(door, temperature=1, extra_body={"top_k": 1}).choices[0].text
    equal(greedy, complete(door).choices[0].text, "top_k 1 is greedy")
    same_at_both_doors("extra_body", first.choices[0].token_ids)


@check
def other_fields_of_openai(door: Door):
    usual = chat(door).choices[0].message.content
    equal(chat(door, response_format={"type": "text"}, user="somebody", metadata={"a": "b"}).choices[0].message.content, usual, "answer")
    capped = client(door).chat.completions.create(model="test", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_completion_tokens=3)
    equal((capped.usage.completion_tokens, capped.choices[0].finish_reason), (3, "length"), "max_completion_tokens")
    parts = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    expect(chat(door, messages=parts).choices[0].message.content, "content in parts")
    penalised = complete(door, presence_penalty=1.5, frequency_penalty=0.5, logit_bias={"5": -100})
    same_at_both_doors("penalties", penalised.choices[0].text)


@check
def echo_repeats_the_prompt(door: Door):
    choice = complete(door, echo=True, logprobs=1, max_tokens=4).choices[0]
    expect(choice.text.startswith(QUESTION), "text", choice.text)
    equal("".join(choice.logprobs.tokens), choice.text, "tokens")
    expect(choice.logprobs.token_logprobs[0] is None, "the first token has no logprob", choice.logprobs.token_logprobs)
    same_at_both_doors("echo", (choice.text, choice.logprobs.token_logprobs))


@check
def a_list_of_prompts_has_a_choice_each(door: Door):
    answer = complete(door, prompt=[QUESTION, "What is a raven?"])
    equal([choice.index for choice in answer.choices], [0, 1], "indices")
    equal(answer.choices[0].text, complete(door).choices[0].text, "the first")
    expect(answer.choices[0].text != answer.choices[1].text, "they differ", answer)


@check
def bad_requests_are_BadRequestError(door: Door):
    for fields, param in [(dict(temperature=-1), "temperature"), (dict(n=100000), "n"), (dict(max_tokens=-1), "max_tokens"),
                          (dict(prompt="word " * 9000), None), (dict(logit_bias={"99999": 1}), "logit_bias")]:
        for stream in (False, True):
            error = raises(openai.BadRequestError, lambda: complete(door, **fields, stream=stream))
            equal(error.status_code, 400, "status")
            expect(param is None or param in error.message, "message", error.message)
            if param in ("temperature", "n"):
                equal(error.param, param, "param")
    raises(openai.BadRequestError, lambda: chat(door, messages=[{"role": "user"}, 5]))


@check
def unknown_names_are_NotFoundError(door: Door):
    error = raises(openai.NotFoundError, lambda: chat(door, model="gpt-4"))
    expect("gpt-4" in error.message and "test" in error.message, "message", error.message)
    raises(openai.NotFoundError, lambda: client(door).embeddings.create(model="test", input="x"))


@check
def a_wrong_key_is_an_AuthenticationError(door: Door):
    for key in ("wrong", KEY + "x"):
        other = client(door, api_key=key)
        raises(openai.AuthenticationError, lambda: other.models.list())
        raises(openai.AuthenticationError, lambda: other.completions.create(model="test", prompt="x"))


@check
def a_client_that_times_out_frees_its_request(door: Door):
    hasty = client(door, timeout=0.3)
    raises(openai.APITimeoutError, lambda: hasty.completions.create(model="test", prompt="What", max_tokens=ENDLESS, extra_body={"ignore_eos": True}))
    door.wait_all_free()


@check
def a_stream_that_is_closed_frees_its_request(door: Door):
    stream = complete(door, max_tokens=ENDLESS, extra_body={"ignore_eos": True}, stream=True)
    for count, _ in enumerate(stream):
        if count == 3:
            break
    stream.close()
    door.wait_all_free()


@check
def raw_answers_carry_the_request_id(door: Door):
    raw = client(door).completions.with_raw_response.create(model="test", prompt="x", max_tokens=1, extra_headers={"X-Request-Id": "mine"})
    equal(raw.headers.get("x-request-id"), "mine", "X-Request-Id")
    expect(raw.parse().choices[0].finish_reason == "length", "parsed", raw.text)
    with client(door).completions.with_streaming_response.create(model="test", prompt="x", max_tokens=1) as response:
        expect("choices" in response.json(), "read as it comes")


@check
def one_connection_serves_many_requests(door: Door):
    kept = client(door)
    texts = {kept.completions.create(model="test", prompt=QUESTION, temperature=0, max_tokens=2).choices[0].text for _ in range(20)}
    equal(len(texts), 1, "answers")
