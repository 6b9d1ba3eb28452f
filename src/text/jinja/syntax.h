// The tree of a parsed template. Part of the engine that text/jinja/template.h describes.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace qalof::text::jinja {

struct Expression {
  enum class Kind {
    kLiteral,      // literal
    kName,         // name
    kList,         // operands
    kTuple,        // operands
    kDict,         // operands: key, value, key, value ...
    kUnary,        // name: "-", "+" or "not"
    kBinary,       // name: an arithmetic operator or "~"
    kLogical,      // name: "and" or "or"
    kComparison,   // operands a, b, c ...; names: "<", "in", "not in" ... between them
    kConditional,  // operands: condition, value, otherwise (may be missing)
    kAttribute,    // operands: object; name
    kItem,         // operands: object, index
    kSlice,        // operands: object, first, last, step; null where left out
    kCall,         // operands: function or attribute, then arguments
    kFilter,       // name; operands: subject, then arguments; null subject: that of a block
    kTest,         // the same; negated
  };
  Kind kind = Kind::kLiteral;
  std::size_t line = 0;
  int depth = 1;  // of the tree
  std::string name;
  Value literal;
  std::vector<std::unique_ptr<Expression>> operands;
  std::vector<std::pair<std::string, std::unique_ptr<Expression>>> keywords;  // arguments by name
  std::vector<std::string> names;
  bool negated = false;
};
using ExpressionPtr = std::unique_ptr<Expression>;

struct Macro;
struct Statement;
using Body = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,        // text
    kOutput,      // expression
    kIf,          // branches
    kFor,         // targets, expression (what is iterated), condition, body, otherwise
    kSet,         // targets or (space, targets[0]), expression
    kSetBlock,    // targets[0], body; expression: filters of the block, or null
    kMacro,       // macro
    kGeneration,  // body
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;  // null: else
    Body body;
  };
  Kind kind = Kind::kText;
  std::size_t line = 0;
  int depth = 1;
  Text text;
  ExpressionPtr expression, condition;
  std::vector<Branch> branches;
  std::vector<std::string> targets;
  std::string space;  // of {% set space.name = ... %}
  Body body, otherwise;
  std::unique_ptr<Macro> macro;
};

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  Body body;
};

/// Parses a template; where names it in messages ("PATH: line N: ..."). Error{kBadInput} for what
/// no template may contain, {kUnsupported} naming the construct for what this engine lacks.
Body parse_template(std::string_view source, const std::string& where);

}  // namespace qalof::text::jinja
