// Rendering of conversations: 100 turns of a few lines, and megabytes in one message.
#include <benchmark/benchmark.h>

#include <boost/json.hpp>

#include "base/check.h"
#include "text/chat_template.h"

namespace baton::text {
namespace {

// The shape of a ChatML template with tools and reasoning.
constexpr std::string_view kTemplate = R"(
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and not message.content.startswith('<tool_response>') %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or message.role == "system" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- else %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
        {{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %})";

RenderRequest conversation(int64_t turns, size_t bytes_per_turn) {
  RenderRequest request;
  for (int64_t i = 0; i < turns; ++i) {
    std::string content = i % 2 == 0 ? "" : "<think>so</think>\n";
    while (content.size() < bytes_per_turn) content += "The quick brown fox jumps over the lazy dog.\n";
    request.messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", content}});
  }
  return request;
}

void render(benchmark::State& state, const RenderRequest& request) {
  const auto compiled = ChatTemplate::compile(kTemplate, {});
  CHECK(compiled.has_value());
  size_t bytes = 0;
  for (auto _ : state) {
    const auto text = compiled->render(request);
    CHECK(text.has_value(), "{}", text.error().message);
    bytes += text->size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
}

// The argument is the number of turns, of 200 bytes each.
void render_turns(benchmark::State& state) { render(state, conversation(state.range(0), 200)); }
BENCHMARK(render_turns)->Arg(100)->Arg(1000)->Arg(10000);

// The argument is the size of each of four messages.
void render_large(benchmark::State& state) {
  render(state, conversation(4, static_cast<size_t>(state.range(0))));
}
BENCHMARK(render_large)->Arg(1 << 18)->Arg(1 << 20)->Arg(1 << 22);

}  // namespace
}  // namespace baton::text
