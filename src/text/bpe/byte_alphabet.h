// The spelling of bytes in byte-level vocabularies: each of the 256 bytes has one printable character, so
// that " the" is spelled "Ġthe" (Radford et al., "Language Models are Unsupervised Multitask Learners",
// encoder.py: bytes_to_unicode). Printable Latin-1 bytes stand for themselves, the others take U+0100 upwards
// in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace baton::text::bpe {

// The character that spells `byte`.
char32_t spelling_of(uint8_t byte);

// Appends the bytes that `spelled` spells to `bytes`. False, with `bytes` as it was, when a character of it
// spells no byte: such a token (a special one, for example) stands for its own UTF-8.
bool append_spelled_bytes(std::string& bytes, std::string_view spelled);

}  // namespace baton::text::bpe
