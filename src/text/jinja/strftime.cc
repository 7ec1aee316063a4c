#include "text/jinja/strftime.h"

#include "text/jinja/limits.h"

namespace baton::text::jinja {

Result<std::string> format_time(std::string_view format, const std::tm& time) {
  constexpr std::string_view kDirectives = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY%";
  constexpr std::string_view kFlags = "-_0^#";
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (out.size() > kFormatWidthMax) return fail(Code::kInvalid, "strftime_now(): the result is too long");
    if (format[i] != '%' || i + 1 >= format.size()) {
      out += format[i];
      continue;
    }
    std::string directive = "%";
    size_t at = i + 1;
    if (kFlags.find(format[at]) != std::string_view::npos && at + 1 < format.size())
      directive += format[at++];
    directive += format[at];
    if (format[at] == 'f') {
      out += "000000";
    } else if (format[at] == 'z' || format[at] == 'Z') {
      // A time without a zone prints none.
    } else if (kDirectives.find(format[at]) == std::string_view::npos) {
      out += directive;
    } else {
      char buffer[128];
      out.append(buffer, std::strftime(buffer, sizeof buffer, directive.c_str(), &time));
    }
    i = at;
  }
  return out;
}

}  // namespace baton::text::jinja
