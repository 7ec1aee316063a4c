// The chat template of a checkpoint: messages, tools and template arguments in, prompt text out. The text
// already holds BOS where the template writes it: tokenize it with add_special_tokens off. Compiled once;
// render() may be called from any number of threads. Behaviour: transformers'
// apply_chat_template(tokenize=False); messages reach the template as they are, null values too.
#pragma once

#include <boost/json/value.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja/template.h"

namespace baton::text {

// Nesting of messages, tools and arguments.
inline constexpr size_t kJsonDepthMax = 100;

struct RenderRequest {
  boost::json::array messages;  // the request's messages, order of keys kept
  boost::json::value tools;     // an array of tool definitions, or null
  boost::json::object kwargs;   // chat_template_kwargs: variables of the template
  bool add_generation_prompt = true;
  // The last message is to be continued: the text ends where its content ends. Excludes
  // add_generation_prompt.
  bool continue_final_message = false;
};

class ChatTemplate {
 public:
  // From MODEL/chat_template.jinja, else "chat_template" of tokenizer_config.json: a string, or a list of
  // named templates, of which "default" is used and "tool_use" when there are tools. The special tokens of
  // tokenizer_config.json (bos_token, eos_token, …; strings or AddedToken objects) become variables.
  // kNotFound when the checkpoint has no template; kCorrupt when a file or the template is not what it should
  // be.
  static Result<ChatTemplate> load(const std::filesystem::path& model_dir,
                                   jinja::LocalTime local_time = jinja::system_local_time);
  // From source text, as --chat-template gives it.
  static Result<ChatTemplate> compile(std::string_view source, boost::json::object special_tokens,
                                      jinja::LocalTime local_time = jinja::system_local_time);

  // kInvalid with param "messages": what the template objects to (the text of its raise_exception as it is),
  // or a limit of jinja/limits.h.
  Result<std::string> render(const RenderRequest& request) const;

  const boost::json::object& special_tokens() const { return special_tokens_; }

 private:
  explicit ChatTemplate(boost::json::object special_tokens) : special_tokens_(std::move(special_tokens)) {}
  const jinja::Template* choose(bool with_tools) const;

  std::map<std::string, jinja::Template, std::less<>> templates_;  // by name; one alone is "default"
  boost::json::object special_tokens_;
};

// The special tokens that a parsed tokenizer_config.json names, as variables of a template.
boost::json::object special_tokens_of(const boost::json::object& tokenizer_config);

// A JSON value as a template sees it. kInvalid past kJsonDepthMax.
Result<jinja::Value> template_value(const boost::json::value& json, size_t depth = 0);

}  // namespace baton::text
