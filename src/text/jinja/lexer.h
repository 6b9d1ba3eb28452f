// Splits a template into text and the tokens of its statements and expressions, with the white
// space rules of Jinja under trim_blocks and lstrip_blocks. Part of the engine that
// text/jinja/template.h describes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace qalof::text::jinja {

struct Token {
  enum class Kind {
    kText,           // of the template, outside marks
    kBlockBegin,     // {%
    kBlockEnd,       // %}
    kVariableBegin,  // {{
    kVariableEnd,    // }}
    kName,
    kString,  // text: its value
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind;
  std::string text;
  std::size_t line;  // from 1
};

/// source must be UTF-8; where names it in messages. The last token is kEnd. Error{kBadInput} for a
/// comment, string or block without end and for unknown characters; {kUnsupported} for escapes by
/// name.
std::vector<Token> split_template(std::string_view source, const std::string& where);

}  // namespace qalof::text::jinja
