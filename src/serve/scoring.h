// Answers and classes: prompts that are read once, without new tokens, and what a head on their
// hidden states says.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "serve/http.h"
#include "serve/request_body.h"
#include "serve/scheduler.h"

namespace qalof::serve {

/// One job per window of the context; they answer exchange together. Throws ApiError{400} where
/// what runs has no question-answering head or the window leaves no room.
std::vector<Job> make_answer(const AnswerRequest& request,
                             std::vector<std::shared_ptr<const Variant>> variants,
                             const Catalog& catalog, const Limits& limits,
                             std::shared_ptr<Exchange> exchange);

/// One job per text. Throws ApiError{400} where what runs has no classification head or a text has
/// no tokens.
std::vector<Job> make_classification(const ClassificationRequest& request,
                                     const std::vector<std::shared_ptr<const Variant>>& variants,
                                     const Catalog& catalog, std::shared_ptr<Exchange> exchange);

}  // namespace qalof::serve
