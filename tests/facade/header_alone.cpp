// The public header needs nothing before it and nothing but the standard library: this file is
// compiled with include/ as its only folder of headers.
#include <qalof/qalof.h>

static_assert(qalof::AnswerOptions{}.max_seq_length == 384);
