"""prometheus_client reads /metrics of both doors and of the instances behind the proxy."""
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.clients.doors import Door, check, equal, expect

OF_INSTANCES = {"vllm:time_to_first_token_seconds": "histogram", "vllm:e2e_request_latency_seconds": "histogram",
                "vllm:inter_token_latency_seconds": "histogram", "vllm:num_requests_running": "gauge", "vllm:num_requests_waiting": "gauge",
                "vllm:prompt_tokens": "counter", "vllm:generation_tokens": "counter", "vllm:request_success": "counter",
                "baton:kv_blocks_free": "gauge", "baton:handovers": "counter"}
OF_PROXIES = {"baton:proxy_requests": "counter", "baton:proxy_requests_in_flight": "gauge", "baton:proxy_instance_up": "gauge",
              "baton:proxy_time_to_first_byte_seconds": "histogram"}


def families(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        expect(answer.headers["Content-Type"].startswith("text/plain"), "Content-Type", answer.headers["Content-Type"])
        found = list(text_string_to_metric_families(answer.read().decode()))
    equal(len({family.name for family in found}), len(found), "each family once")
    return {family.name: family for family in found}


def check_histogram(family) -> None:
    series: dict[tuple, list] = {}
    for sample in family.samples:
        labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        if sample.name.endswith("_bucket"):
            series.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
    counts = {tuple(sorted(s.labels.items())): s.value for s in family.samples if s.name.endswith("_count")}
    for labels, buckets in series.items():
        equal(buckets, sorted(buckets), f"{family.name}: buckets ascend")
        equal(buckets[-1], (float("inf"), counts[labels]), f"{family.name}: +Inf is the count")


@check
def metrics_parse_and_have_their_types(door: Door):
    found = families(door.port)
    wanted = OF_PROXIES if door.name == "proxy" else OF_INSTANCES
    equal({name: found[name].type if name in found else None for name in wanted}, wanted, "families")
    for family in found.values():
        if family.type == "histogram":
            check_histogram(family)


@check
def metrics_of_instances_count_what_was_asked(door: Door):
    tokens = 0
    for name in door.instances:
        found = families(door.cluster.ports[name])
        tokens += sum(sample.value for sample in found["vllm:generation_tokens"].samples)
        running = sum(sample.value for sample in found["vllm:num_requests_running"].samples)
        equal(running, 0, f"{name}: nothing runs now")
    expect(tokens > 0, "tokens were generated", tokens)
