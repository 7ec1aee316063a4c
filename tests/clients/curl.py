"""curl, for what libraries never do: HTTP/1.0, chunked uploads, an Expect, an offer of HTTP/2, several URLs on one connection."""
import json
import subprocess

from tests.clients.doors import KEY, QUESTION, Door, check, equal, expect

BODY = {"model": "test", "prompt": QUESTION, "temperature": 0, "max_tokens": 8}


def curl(door: Door, *options: str, body=BODY, path: str = "/v1/completions") -> str:
    data = body if isinstance(body, str) else json.dumps(body)
    command = ["curl", "-sS", "--max-time", "60", "-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json", *options,
               "--data-binary", "@-", door.url + path]
    run = subprocess.run(command, input=data, text=True, capture_output=True)
    equal((run.returncode, run.stderr), (0, ""), " ".join(command))
    return run.stdout


def streamed_text(output: str) -> str:
    events = [line.removeprefix("data: ") for line in output.splitlines() if line.startswith("data: ")]
    equal(events[-1], "[DONE]", "the last event")
    return "".join(choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"])


def usual(door: Door) -> str:
    return json.loads(curl(door))["choices"][0]["text"]


@check
def http_1_0_gets_an_answer_and_a_stream(door: Door):
    equal(json.loads(curl(door, "--http1.0"))["choices"][0]["text"], usual(door), "whole")
    output = curl(door, "--http1.0", "-N", "-i", body={**BODY, "stream": True})
    expect("transfer-encoding" not in output.split("\r\n\r\n")[0].lower(), "no chunks for HTTP/1.0", output[:500])
    equal(streamed_text(output), usual(door), "stream")


@check
def chunked_uploads_are_read(door: Door):
    equal(json.loads(curl(door, "-H", "Transfer-Encoding: chunked"))["choices"][0]["text"], usual(door), "whole")
    equal(streamed_text(curl(door, "-N", "-H", "Transfer-Encoding: chunked", body={**BODY, "stream": True})), usual(door), "stream")


@check
def a_body_that_waits_to_be_asked_for(door: Door):
    padded = json.dumps(BODY) + " " * 2_000_000
    equal(json.loads(curl(door, "-H", "Expect: 100-continue", body=padded))["choices"][0]["text"], usual(door), "answer")


@check
def an_offer_of_http_2_is_declined(door: Door):
    equal(json.loads(curl(door, "--http2"))["choices"][0]["text"], usual(door), "answer")


@check
def an_event_stream_says_so(door: Door):
    head = curl(door, "-N", "-i", body={**BODY, "stream": True}).split("\r\n\r\n")[0].lower()
    expect("content-type: text/event-stream" in head, "head", head)


@check
def a_body_that_is_too_large_is_refused_with_its_status(door: Door):
    output = curl(door, "-o", "/dev/null", "-w", "%{http_code}", body='{"prompt": "' + "x" * (40 << 20) + '"}')
    equal(output, "413", "status")


@check
def several_answers_come_over_one_connection(door: Door):
    output = curl(door, "-w", "|%{num_connects}\n", "-o", "/dev/null", "-o", "/dev/null", door.url + "/v1/completions")
    equal([line for line in output.splitlines() if line.startswith("|")], ["|1", "|0"], "connections opened")
