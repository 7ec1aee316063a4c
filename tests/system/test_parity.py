"""The parity law through real processes: whatever a request asks, two prefill and two decode instances behind the proxy
answer it as one instance does, to the bit, although each of them cuts batches, blocks and instruction sets differently."""
import concurrent.futures
import json
import os
import random
import unittest

from tests.system.cluster import Cluster, TINY, ask

SEED = int(os.environ.get("BATON_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
IN_FLIGHT = 6
WORDS = ["What", "is", "a", "violin", "volcano", "glacier", "raven", "telescope", "?", "the", "meaning", "of", "Define", "é", "山", "🎻", "42", "\n"]
ANSWER_KEYS = ("text", "message", "token_ids", "prompt_token_ids", "logprobs", "prompt_logprobs", "finish_reason", "stop_reason")


def cpu_has(flag: str) -> bool:
    with open("/proc/cpuinfo") as info:
        return flag in info.read().split()


def random_prompt(draw: random.Random, tokens_max: int, vocabulary: int):
    """Text or token ids, short mostly, with beginnings that other prompts share."""
    length = draw.choice([1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 250, draw.randrange(1, tokens_max)])
    shared = random.Random(draw.choice([1, 2, 3]))
    if draw.random() < 0.5:
        ids = [shared.randrange(3, vocabulary) for _ in range(length * 3 // 4)]
        return ids + [draw.randrange(3, vocabulary) for _ in range(length - len(ids))]
    words = [shared.choice(WORDS) for _ in range(min(length, 400) * 3 // 4)]
    return " ".join(words + [draw.choice(WORDS) for _ in range(min(length, 400) - len(words))]) or "a"


def random_sampling(draw: random.Random, vocabulary: int) -> dict:
    fields: dict = {"max_tokens": draw.choice([1, 1, 2, 3, 8, 16, 17, 32, 48]), "seed": draw.randrange(1 << 31)}
    maybe = lambda chance: draw.random() < chance
    fields["temperature"] = 0 if maybe(0.4) else draw.choice([0.3, 0.7, 1.0, 1.5, 3.0])
    if maybe(0.3): fields["top_p"] = draw.choice([0.1, 0.5, 0.9, 0.99])
    if maybe(0.3): fields["top_k"] = draw.choice([1, 2, 10, 50])
    if maybe(0.2): fields["min_p"] = draw.choice([0.01, 0.1, 0.5])
    if maybe(0.25): fields["n"] = draw.choice([2, 3, 4])
    if maybe(0.2): fields["repetition_penalty"] = draw.choice([0.8, 1.1, 1.5])
    if maybe(0.2): fields["presence_penalty"] = draw.choice([-1.0, 0.5, 2.0])
    if maybe(0.2): fields["frequency_penalty"] = draw.choice([-0.5, 0.3, 1.5])
    if maybe(0.15): fields["logit_bias"] = {str(draw.randrange(vocabulary)): draw.choice([-100, -5, 3, 100]) for _ in range(3)}
    if maybe(0.25): fields["stop"] = draw.choice(["a", ["is", "the"], [" of"], ["zzzz"], ["e", "."]])
    if maybe(0.15): fields["stop_token_ids"] = [draw.randrange(vocabulary) for _ in range(200)]
    if maybe(0.3): fields["ignore_eos"] = True
    if maybe(0.2): fields["min_tokens"] = draw.randrange(0, fields["max_tokens"] + 1)
    if maybe(0.2): fields["include_stop_str_in_output"] = True
    if maybe(0.5): fields["return_token_ids"] = True
    return fields


def random_request(draw: random.Random, vocabulary: int) -> tuple[str, dict]:
    body = {"model": "test", **random_sampling(draw, vocabulary)}
    if draw.random() < 0.45:
        body["stream"] = True
        if draw.random() < 0.7:
            body["stream_options"] = {"include_usage": True}
    if draw.random() < 0.4:
        turns = draw.choice([1, 1, 3])
        texts = [" ".join(draw.choice(WORDS) for _ in range(draw.choice([1, 4, 20]))) for _ in range(turns)]
        body["messages"] = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        if draw.random() < 0.5:
            body.update(logprobs=True, top_logprobs=draw.choice([0, 1, 5, 20]))
        if not body.get("stream") and draw.random() < 0.2:
            body["prompt_logprobs"] = draw.choice([0, 1, 3])
        return "/v1/chat/completions", body
    body["prompt"] = random_prompt(draw, 2000, vocabulary)
    if draw.random() < 0.2:  # a list of prompts, all texts or all token ids
        prompts = [random_prompt(draw, 300, vocabulary) for _ in range(draw.choice([2, 3, 5, 20]))]
        body["prompt"] = [prompt for prompt in prompts if isinstance(prompt, str) == isinstance(prompts[0], str)]
    if draw.random() < 0.5: body["logprobs"] = draw.choice([0, 1, 5])
    if draw.random() < 0.25: body["echo"] = True
    if not body.get("stream") and draw.random() < 0.25: body["prompt_logprobs"] = draw.choice([0, 1, 3])
    return "/v1/completions", body


def join(choice: dict, piece: dict) -> None:
    """Adds one event's choice to what came before it: chunks may be cut anywhere, their sum may not differ."""
    for key, value in piece.items():
        if key == "delta":
            for part, text in value.items():
                choice[part] = choice.get(part, "") + (text or "") if part != "role" else text
        elif key == "text":
            choice["text"] = choice.get("text", "") + value
        elif key == "token_ids" and value:
            choice[key] = choice.get(key, []) + value
        elif key == "logprobs" and value:
            lists = choice.setdefault(key, {})
            for name, entries in value.items():
                lists[name] = lists.get(name, []) + (entries or [])
        elif value is not None:
            choice[key] = value


def outcome(answer, streams: bool) -> dict:
    """What must be equal: everything but ids, times, where chunks were cut, and what caches happened to hold."""
    if answer.status != 200:
        return {"status": answer.status, "error": answer.json()["error"]["message"]}
    counts = lambda usage: {key: usage[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
    if not streams:
        body = answer.json()
        choices = [{key: choice.get(key) for key in (*ANSWER_KEYS, "index")} for choice in body["choices"]]
        return {"status": 200, "choices": choices, "usage": counts(body["usage"]), "prompt_logprobs": body.get("prompt_logprobs"),
                "prompt_token_ids": body.get("prompt_token_ids")}
    events = answer.events()
    choices: dict[int, dict] = {}
    usage = None
    for event in events:
        if event == "[DONE]":
            continue
        if "error" in event:
            return {"status": "event", "error": event["error"]["message"]}
        usage = event.get("usage") or usage
        for piece in event["choices"]:
            join(choices.setdefault(piece["index"], {}), piece)
    return {"status": 200, "choices": choices, "usage": usage and counts(usage), "done": events[-1] == "[DONE]"}


def differences(pair, single, path: str = "") -> list[str]:
    """Where two outcomes differ, by path."""
    if isinstance(pair, dict) and isinstance(single, dict):
        keys = sorted({*pair, *single}, key=str)
        return [line for key in keys for line in differences(pair.get(key), single.get(key), f"{path}.{key}")]
    if isinstance(pair, list) and isinstance(single, list) and len(pair) == len(single):
        return [line for i, (a, b) in enumerate(zip(pair, single)) for line in differences(a, b, f"{path}[{i}]")]
    return [] if pair == single else [f"{path}: {str(pair)[:200]} through the proxy, {str(single)[:200]} from one instance"]


class Parity:
    """What both models are asked; each instance differs from the others by its flags."""
    model: str | None = None
    vocabulary = 4096
    requests = 100
    flags: tuple[str, ...] = ()
    batch_of_d = "96"
    local_prefill = "never"

    @classmethod
    def setUpClass(cls):
        print(f"BATON_TEST_SEED={SEED}", flush=True)
        cls.cluster = cls.enterClassContext(Cluster(cls.model) if cls.model else Cluster())
        fast = "avx512bf16" if cpu_has("avx512_bf16") else "auto"
        slow = "avx2" if cpu_has("avx2") else "portable"
        serve = cls.cluster.serve
        serve("P1", "kv_producer", "--cpu-isa", fast, *cls.flags)
        serve("P2", "kv_producer", "--max-num-batched-tokens", "160", "--kv-transport", "tcp", *cls.flags)
        serve("D1", "kv_consumer", "--cpu-isa", "portable", "--max-num-batched-tokens", cls.batch_of_d, *cls.flags)
        serve("D2", "kv_consumer", "--cpu-isa", slow, "--max-num-seqs", "5", *cls.flags)
        serve("D3", "kv_consumer", "--block-size", "48", *cls.flags)
        serve("single", None, *cls.flags)
        cls.proxy = cls.cluster.proxy("proxy", ["P1", "P2"], ["D1", "D2", "D3"], "--local-prefill", cls.local_prefill)

    def both(self, request: tuple[str, dict]):
        path, body = request
        return [ask(port, "POST", path, body, timeout=120) for port in (self.proxy, self.cluster.ports["single"])]

    def test_random_requests_have_the_bits_of_one_instance(self):
        draw = random.Random(SEED)
        requests = [random_request(draw, self.vocabulary) for _ in range(self.requests)]
        answered = 0
        with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
            for request, (pair, single) in zip(requests, pool.map(self.both, requests)):
                streams = bool(request[1].get("stream"))
                with self.subTest(seed=SEED, path=request[0], body=json.dumps({key: value if len(str(value)) < 300 else str(value)[:300] for key, value in request[1].items()})):
                    answered += pair.status == 200
                    found = differences(outcome(pair, streams), outcome(single, streams))
                    self.assertFalse(found, "\n".join(found[:6]))
        self.assertGreater(answered, self.requests * 0.9, "too few requests were answered to say anything")
        used = {name: ask(self.cluster.ports[name], "GET", "/debug/requests").json()["recent"] for name in ("P1", "P2", "D1", "D2", "D3")}
        for name, recent in used.items():
            self.assertEqual(bool(recent), self.local_prefill != "always" or name not in ("P1", "P2"), f"whether {name} took part in anything")
        for name in ("P1", "P2", "D1", "D2", "D3", "single"):
            self.cluster.wait_all_free(name)
        for name in ("D1", "D2"):  # D3 has another block size: it may compute prompts itself, with the same bits
            self.assertEqual([r["request_id"] for r in used[name] if r["recomputed"]], [], f"{name} did not use the KV of its peer")


class TrainedModel(Parity, unittest.TestCase):
    requests = 240


class TrainedModelPrefilledByD(Parity, unittest.TestCase):
    local_prefill = "always"


class TrainedModelPrefilledWhereItCostsLess(Parity, unittest.TestCase):
    local_prefill = "auto"


class TinyModelInFloat32(Parity, unittest.TestCase):
    model = TINY
    requests = 80
    vocabulary = 256
    flags = ("--dtype", "float32")


if __name__ == "__main__":
    unittest.main()
