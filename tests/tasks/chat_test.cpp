// Conversations are read in every form that is promised, and what cannot be read is named; what is
// learned is the assistant's; answers written together are those written alone.
#include "tasks/chat/chat.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/file.h"
#include "quant/plan.h"
#include "runtime/generator.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "tasks/chat/answers.h"
#include "text/chat_template.h"
#include "text/records.h"
#include "text/rouge.h"
#include "weights/base_model.h"

namespace qalof::tasks {
namespace chat_test {

using qalof::testing::error_of;
using ::testing::HasSubstr;

std::string shown(const Conversation& conversation) {
  std::string text = conversation.text;
  for (const text::ChatMessage& message : conversation.messages)
    text += message.role + "=" + message.content + ";";
  return text;
}

TEST(ParseConversation, ReadsEveryForm) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})",
       "user=a;assistant=b;"},
      {R"({"prompt": "a", "completion": "b", "id": 7})", "user=a;assistant=b;"},
      {R"({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
           "completion": [{"role": "assistant", "content": "b"}]})",
       "system=s;user=a;assistant=b;"},
      {R"({"instruction": "do", "input": "", "output": "b"})", "user=do;assistant=b;"},
      {R"({"instruction": "do", "input": "x", "output": "b"})", "user=do\n\nx;assistant=b;"},
      {R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"},
                             {"from": "gpt", "value": "b"}]})",
       "system=s;user=a;assistant=b;"},
      {R"({"system": "s", "conversations": [{"from": "human", "value": "a"}]})",
       "system=s;user=a;"},
      {R"({"text": "as it stands"})", "as it stands"}};
  for (const auto& [line, expected] : cases)
    EXPECT_EQ(shown(parse_conversation(line, "f: line 1")), expected) << line;
}

TEST(ParseConversation, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "f: line 3: found array, expected an object with messages, conversations"},
      {R"({"question": "a", "answer": "b"})",
       "f: line 3: found answer, question, expected messages"},
      {R"({"messages": []})", "f: line 3: the conversation has no messages"},
      {R"({"messages": [{"role": "user"}]})", "f: line 3: messages: message 1: content is missing"},
      {R"({"conversations": [{"from": "alien", "value": "x"}]})",
       "f: line 3: conversations: turn 1: from: found alien, expected human, gpt or system"},
      {R"({"prompt": "a", "completion": 5})", "f: line 3: completion: found number"},
      {"{", "f: line 3"}};
  for (const auto& [line, message] : cases) {
    EXPECT_THAT(error_of([&, text = line] { parse_conversation(text, "f: line 3"); }).message,
                HasSubstr(message))
        << line;
  }
}

TEST(ReadConversations, CountsBadLinesOrNamesTheFirst) {
  const qalof::testing::TempDir dir;
  const std::string path = dir.file("chats.jsonl");
  write_file_atomic(path,
                    "\xef\xbb\xbf{\"prompt\": \"a\", \"completion\": \"b\"}\r\n\n"
                    "{broken\n{\"text\": \"c\"}\n{\"text\": 5}\n{\"text\": \"d\"}");
  std::vector<std::size_t> lines;
  const auto take = [&](Conversation&& one) {
    lines.push_back(one.line);
    return true;
  };
  const ConversationCounts counts = read_conversations(path, true, take);
  EXPECT_EQ(lines, (std::vector<std::size_t>{1, 4, 6}));
  EXPECT_EQ(counts.lines, 5U);
  EXPECT_EQ(counts.bad, 2U);
  EXPECT_THAT(counts.first_bad, HasSubstr(path + ": line 3"));
  EXPECT_THAT(error_of([&] { read_conversations(path, false, take); }).message,
              HasSubstr(path + ": line 3"));
  write_file_atomic(path, "\n \n");
  EXPECT_THAT(error_of([&] { read_conversations(path, true, take); }).message,
              HasSubstr("holds no conversation"));
}

TEST(Rouge, EqualsRougeScore) {
  // From the Python package rouge_score 0.1.2, rougeL without stemmer.
  EXPECT_NEAR(text::rouge_l("the cat sat on the mat", "the cat is on the mat"), 0.8333333333333334,
              1e-12);
  EXPECT_NEAR(text::rouge_l("Paris.", "It is in Paris, France"), 0.33333333333333337, 1e-12);
  EXPECT_NEAR(text::rouge_l("b a", "a b"), 0.5, 1e-12);
  EXPECT_EQ(text::rouge_l("", "a"), 0);
  EXPECT_EQ(text::rouge_l("\xc3\xa9\xc3\xa9", "a"), 0);
}

text::TextEncoder nano_encoder() {
  const std::string path = QALOF_SOURCE_DIR "/assets/nano/model";
  text::TextEncoder encoder(text::BpeTokenizer::load(path));
  encoder.set_chat_files(text::chat_template_files(path), path);
  return encoder;
}

class NullObserver final : public Observer {
 public:
  void warn(std::string_view line) override { warnings.emplace_back(line); }
  std::vector<std::string> warnings;
};

TEST(Chat, LearnsTheAssistantsTokensAlone) {
  const text::TextEncoder encoder = nano_encoder();
  Chat task;
  task.chat_template = "plain";
  const text::ChatTemplate chat = task.open_template(encoder);
  const Conversation conversation =
      parse_conversation(R"({"messages": [{"role": "user", "content": "one"},
                                          {"role": "assistant", "content": "two"},
                                          {"role": "user", "content": "three"},
                                          {"role": "assistant", "content": "four"}]})",
                         "f");
  const auto learned = [&](TrainOn train_on, std::size_t length) {
    task.train_on = train_on;
    const ChatSample sample = task.make_sample(encoder, &chat, conversation, length, "f");
    std::string text;
    for (std::size_t i = 0; i < sample.ids.size(); ++i)
      if (sample.scored[i] != 0) text += encoder.tokenizer().piece(sample.ids[i]);
    return text;
  };
  EXPECT_EQ(learned(TrainOn::kAssistant, 999), "two<|endoftext|>four<|endoftext|>");
  EXPECT_EQ(learned(TrainOn::kLast, 999), "four<|endoftext|>");
  EXPECT_EQ(learned(TrainOn::kAll, 999),
            "### user:\none\n### assistant:\ntwo<|endoftext|>\n### user:\nthree\n"
            "### assistant:\nfour<|endoftext|>\n");
  EXPECT_EQ(learned(TrainOn::kLast, 20), "");
}

TEST(Chat, MixesFilesByWeightAndTellsWhatIsLeftOut) {
  const qalof::testing::TempDir dir;
  std::string first, second;
  for (int i = 0; i < 4; ++i) {
    first += R"({"prompt": "a", "completion": "b"})"
             "\n";
    second += R"({"prompt": "c", "completion": "d"})"
              "\n";
  }
  first += R"({"messages": [{"role": "user", "content": "no answer"}]})"
           "\n";
  write_file_atomic(dir.file("a.jsonl"), first);
  write_file_atomic(dir.file("b.jsonl"), second);
  const text::TextEncoder encoder = nano_encoder();
  const auto count = [&](const std::string& mix) {
    Chat task;
    task.chat_template = "plain";
    task.mix = {dir.file("b.jsonl") + mix};
    NullObserver observer;
    DataOptions data;
    data.file = dir.file("a.jsonl");
    const auto examples = task.examples({encoder, 1024, observer}, data);
    EXPECT_THAT(observer.warnings,
                ::testing::ElementsAre(HasSubstr("1 of 5 conversations have no answer to learn")));
    return examples.size();
  };
  EXPECT_EQ(count(""), 8U);
  EXPECT_EQ(count(":2"), 12U);
  EXPECT_EQ(count(":0.5"), 6U);
  EXPECT_EQ(count(":1.25"), 9U);
  EXPECT_THAT(error_of([&] { count(":0"); }).message, HasSubstr("found the weight 0"));
}

// The nano model with a task, scoring a file of these lines.
class ChatEvaluation : public ::testing::Test {
 protected:
  ChatEvaluation() {
    task_.chat_template = "plain";
    task_.generate = true;
    task_.max_new_tokens = 12;
  }
  Scores evaluate(const std::string& lines, const std::string& precision = "8") {
    write_file_atomic(dir_.file("data.jsonl"), lines);
    DataOptions data;
    data.file = dir_.file("data.jsonl");
    data.output_dir = dir_.file("out");
    execution_ = runtime::Execution::create(
        base_, quant::resolve(quant::parse_plan(precision), base_->target()), nullptr, pool_);
    const runtime::RequestExecutions executions(*execution_);
    return task_.evaluate({{encoder_, base_->config().max_positions, observer_}, executions, pool_},
                          data);
  }
  std::vector<Json> answers() const {
    std::vector<Json> found;
    std::string text = read_file(dir_.file("out/eval_answers.jsonl"), 1U << 20);
    text::for_each_whole_line(text, [&](std::string_view line, std::size_t) {
      found.push_back(parse_json(line, "answers"));
    });
    return found;
  }

  qalof::testing::TempDir dir_;
  Chat task_;
  std::shared_ptr<const weights::BaseModel> base_ =
      weights::BaseModel::load_directory(QALOF_SOURCE_DIR "/assets/nano/model");
  text::TextEncoder encoder_ = nano_encoder();
  NullObserver observer_;
  ThreadPool pool_{2};
  std::shared_ptr<const runtime::Execution> execution_;
};

TEST_F(ChatEvaluation, PackedOrAloneAreTheSameBits) {
  const std::string lines[] = {
      R"({"prompt": "Where is Hugo?", "completion": "in the garden"})"
      "\n",
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                       {"role": "user", "content": "c"}, {"role": "assistant", "content": "d e"}]})",
      R"({"instruction": "Say it", "input": "twice and longer than the others are", "output": "it it"})"
      "\n"};
  std::string one_line = lines[1];
  std::erase(one_line, '\n');
  one_line += "\n";
  double sum = 0, tokens = 0;
  std::vector<Json> alone;
  for (const std::string& line : {lines[0], one_line, lines[2]}) {
    const Scores scores = evaluate(line);
    sum += scores.at("eval_loss") * scores.at("tokens");
    tokens += scores.at("tokens");
    alone.push_back(answers().front());
  }
  const Scores together = evaluate(lines[0] + one_line + lines[2]);
  EXPECT_EQ(together.at("tokens"), tokens);
  EXPECT_NEAR(together.at("eval_loss"), sum / tokens, 1e-12);  // sums in another order
  const std::vector<Json> packed = answers();
  ASSERT_EQ(packed.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(packed[i]["answer"], alone[i]["answer"]);
    EXPECT_EQ(packed[i]["line"], i + 1);
  }
}

TEST_F(ChatEvaluation, AnswersAreThoseOfGenerate) {
  evaluate(R"({"prompt": "Where is Hugo?", "completion": "in the garden"})"
           "\n");
  const text::ChatTemplate chat = task_.open_template(encoder_);
  const text::ChatMessage message{"user", "Where is Hugo?"};
  text::ChatOptions options;
  options.add_generation_prompt = true;
  const auto prompt =
      text::encode_chat(encoder_.tokenizer(), chat.render_marked({&message, 1}, options)).ids;
  runtime::GenerateOptions generation;
  generation.max_new_tokens = 12;
  generation.stop_ids = stop_ids_of(encoder_, chat, *base_);
  EXPECT_FALSE(generation.stop_ids.empty());
  const runtime::Generation made =
      runtime::generate(*execution_, encoder_.tokenizer(), prompt, generation, pool_);
  EXPECT_EQ(answers().front()["answer"], made.text);
  // A second turn keeps K and V, and changes nothing.
  runtime::KvMemory memory;
  generation.memory = &memory;
  runtime::generate(*execution_, encoder_.tokenizer(), std::span(prompt).first(prompt.size() - 4),
                    generation, pool_);
  const runtime::Generation kept =
      runtime::generate(*execution_, encoder_.tokenizer(), prompt, generation, pool_);
  EXPECT_EQ(kept.ids, made.ids);
  EXPECT_EQ(kept.kept_tokens, prompt.size() - 4);
}

TEST_F(ChatEvaluation, LossIsThatOfTheAnswersTokens) {
  task_.generate = false;
  const Scores scores = evaluate(R"({"prompt": "Where is Hugo?", "completion": "in the garden"})"
                                 "\n",
                                 "32");
  const Conversation conversation =
      parse_conversation(R"({"prompt": "Where is Hugo?", "completion": "in the garden"})", "f");
  const text::ChatTemplate chat = task_.open_template(encoder_);
  const ChatSample sample = task_.make_sample(encoder_, &chat, conversation, 999, "f");
  std::vector<float> hidden(sample.ids.size() * base_->config().hidden);
  runtime::DecoderWorkspace workspace;
  const runtime::Sequence sequence{sample.ids};
  runtime::forward(*execution_, {&sequence, 1}, workspace, hidden.data(), pool_);
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t t = 1; t < sample.ids.size(); ++t) {
    if (sample.scored[t] == 0) continue;
    sum += static_cast<double>(
        runtime::lm_token_losses(*execution_, hidden.data() + (t - 1) * base_->config().hidden,
                                 {&sample.ids[t], 1}, pool_)[0]);
    ++count;
  }
  EXPECT_EQ(scores.at("tokens"), static_cast<double>(count));
  EXPECT_NEAR(scores.at("eval_loss"), sum / static_cast<double>(count), 1e-6);
}

}  // namespace chat_test
}  // namespace qalof::tasks
