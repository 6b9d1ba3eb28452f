// Routes without sockets: what they answer, what they refuse, and that nothing mixes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "serving.h"
#include "tasks/qa/qa.h"

namespace qalof::serve {
namespace api_test {

using ::testing::HasSubstr;
using ::testing::Not;

const char* const kPrompt = "The river runs through the old town and";

std::string header(const HttpResponse& response, const std::string& name) {
  for (const auto& [found, value] : response.headers) {
    if (found == name) return value;
  }
  return "";
}

TEST(ApiTest, ACompletionIsWhatGenerateGives) {
  NanoApi api;
  const Json found =
      api.answer("/v1/completions",
                 {{"prompt", kPrompt}, {"max_tokens", 12}, {"temperature", 0}, {"precision", "8"}});
  EXPECT_EQ(found["object"], "text_completion");
  EXPECT_EQ(found["model"], "model");
  EXPECT_EQ(found["precision"], "w8a8kv8");
  EXPECT_EQ(found["kv_bits"], 8);
  EXPECT_EQ(found["choices"][0]["text"], Alone("", "8").text(kPrompt, 12));
  EXPECT_EQ(found["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(found["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(found["usage"]["completion_tokens"], 12);
  EXPECT_EQ(found["usage"]["total_tokens"], found["usage"]["prompt_tokens"].get<int>() + 12);
}

TEST(ApiTest, WhatRanIsInTheHeadersToo) {
  NanoApi api;
  const HttpResponse response =
      api.post("/v1/completions", {{"prompt", "a"}, {"precision", "w4a8"}, {"kv_bits", 4}});
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(header(response, "X-Qalof-Precision"), "w4a8kv4");
  EXPECT_EQ(header(response, "X-Qalof-Model"), "model");
  EXPECT_EQ(header(response, "X-Qalof-KV-Bits"), "4");
}

TEST(ApiTest, SampledChoicesAreThoseOfTheirSeeds) {
  NanoApi api;
  Alone alone("", "8");
  const Json found = api.answer("/v1/completions", {{"prompt", {kPrompt, "Once"}},
                                                    {"max_tokens", 10},
                                                    {"temperature", 0.9},
                                                    {"seed", 7},
                                                    {"n", 3},
                                                    {"precision", "8"}});
  ASSERT_EQ(found["choices"].size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(found["choices"][i]["index"], i);
    EXPECT_EQ(found["choices"][i]["text"],
              alone.text(i < 3 ? kPrompt : "Once", 10, 0.9, 7 + i % 3));
  }
}

TEST(ApiTest, TheChoicesOfAPromptReadItOnce) {
  std::string prompt = "Once upon a time";
  for (int i = 0; i < 12; ++i) prompt += " there was a mill by the river";
  for (const bool prefix_cache : {true, false}) {
    SchedulerOptions scheduler;
    scheduler.prefix_cache = prefix_cache;
    scheduler.prefill_chunk = 16;  // the first takes several steps to read it
    scheduler.max_sequences = 3;   // the others come while it reads and after
    NanoApi api({}, scheduler);
    const Json found = api.answer("/v1/completions", {{"prompt", prompt},
                                                      {"max_tokens", 10},
                                                      {"temperature", 0.9},
                                                      {"seed", 7},
                                                      {"n", 5},
                                                      {"precision", "w4a8kv4"}});
    Alone alone("", "w4a8kv4");
    for (std::size_t i = 0; i < 5; ++i)
      EXPECT_EQ(found["choices"][i]["text"], alone.text(prompt, 10, 0.9, 7 + i)) << i;
    const Json& usage = found["usage"];
    EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 0);
    const std::size_t tokens = usage["prompt_tokens"].get<std::size_t>();
    ASSERT_GT(tokens, 32U);
    const SchedulerStats stats = api.scheduler().stats();
    const VariantCounts& counts = stats.variants.begin()->second;
    EXPECT_EQ(counts.prompt_tokens, 5 * tokens);
    EXPECT_EQ(counts.cached_tokens, 4 * (tokens - 1));
  }
}

TEST(ApiTest, APromptWhoseReaderLeavesIsReadByAnother) {
  std::string prompt = "Once upon a time";
  for (int i = 0; i < 12; ++i) prompt += " there was a mill by the river";
  SchedulerOptions scheduler;
  scheduler.prefill_chunk = 1;
  NanoApi api({}, scheduler);
  const Json body = {
      {"prompt", prompt}, {"max_tokens", 10}, {"temperature", 0}, {"precision", "8"}};
  const std::string expected = Alone("", "8").text(prompt, 10);
  std::vector<std::shared_ptr<WaitingExchange>> open;
  for (int i = 0; i < 4; ++i)
    open.push_back(api.begin(NanoApi::request("POST", "/v1/completions", body.dump())));
  open.front()->abandon();
  for (std::size_t i = 1; i < open.size(); ++i) {
    const HttpResponse response = open[i]->wait();
    EXPECT_EQ(parse_json(response.body, "response")["choices"][0]["text"], expected);
  }
}

TEST(ApiTest, AStreamHasTheSameTextInPieces) {
  NanoApi api;
  const HttpResponse response =
      api.post("/v1/completions", {{"prompt", kPrompt},
                                   {"max_tokens", 12},
                                   {"temperature", 0},
                                   {"precision", "8"},
                                   {"stream", true},
                                   {"stream_options", {{"include_usage", true}}}});
  EXPECT_EQ(response.content_type, "text/event-stream");
  EXPECT_EQ(header(response, "X-Qalof-Precision"), "w8a8kv8");
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  const std::vector<Json> events = events_of(response.body);
  std::string text;
  for (std::size_t i = 0; i + 1 < events.size(); ++i) {
    text += events[i]["choices"][0]["text"].get<std::string>();
    EXPECT_TRUE(events[i]["usage"].is_null());
  }
  EXPECT_EQ(text, Alone("", "8").text(kPrompt, 12));
  EXPECT_EQ(events[events.size() - 2]["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(events.back()["choices"].empty());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 12);
}

TEST(ApiTest, StopStringsEndTheTextBeforeThem) {
  NanoApi api;
  const std::string whole = Alone("", "8").text(kPrompt, 30);
  const std::string stop = whole.substr(whole.size() / 2, 3);
  for (const bool stream : {false, true}) {
    const HttpResponse response = api.post("/v1/completions", {{"prompt", kPrompt},
                                                               {"max_tokens", 30},
                                                               {"temperature", 0},
                                                               {"precision", "8"},
                                                               {"stop", {stop, "never"}},
                                                               {"stream", stream}});
    std::string text, reason;
    if (stream) {
      for (const Json& event : events_of(response.body)) {
        text += event["choices"][0]["text"].get<std::string>();
        if (event["choices"][0]["finish_reason"].is_string())
          reason = event["choices"][0]["finish_reason"];
      }
    } else {
      const Json json = parse_json(response.body, "response");
      text = json["choices"][0]["text"];
      reason = json["choices"][0]["finish_reason"];
    }
    EXPECT_EQ(text, whole.substr(0, whole.find(stop)));
    EXPECT_EQ(reason, "stop");
  }
}

TEST(ApiTest, LogprobsOfAnEchoedPromptAreTheModels) {
  NanoApi api;
  Alone alone("", "8");
  const std::vector<std::int32_t> ids = alone.encoder().encode(kPrompt).ids;
  const Json found = api.answer(
      "/v1/completions",
      {{"prompt", ids}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 2}, {"precision", "8"}});
  const Json& logprobs = found["choices"][0]["logprobs"];
  EXPECT_EQ(found["choices"][0]["text"], kPrompt);
  ASSERT_EQ(logprobs["tokens"].size(), ids.size());
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  SerialFor serial;
  runtime::DecoderWorkspace workspace;
  std::vector<float> hidden(ids.size() * alone.execution().base().config().hidden);
  const runtime::Sequence sequence{ids};
  runtime::forward(alone.execution(), {&sequence, 1}, workspace, hidden.data(), serial);
  hidden.resize(hidden.size() - alone.execution().base().config().hidden);
  const std::vector<float> losses =
      runtime::lm_token_losses(alone.execution(), hidden.data(), std::span(ids).subspan(1), serial);
  std::string text;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(logprobs["text_offset"][i], text.size());
    text += logprobs["tokens"][i].get<std::string>();
    if (i == 0) continue;
    EXPECT_NEAR(logprobs["token_logprobs"][i].get<double>(), -static_cast<double>(losses[i - 1]),
                1e-5);
    EXPECT_GE(logprobs["top_logprobs"][i].size(), 2U);
    EXPECT_TRUE(logprobs["top_logprobs"][i].contains(logprobs["tokens"][i].get<std::string>()));
  }
  EXPECT_EQ(text, kPrompt);
}

TEST(ApiTest, EchoedTextComesFirst) {
  NanoApi api;
  const Json found = api.answer("/v1/completions", {{"prompt", kPrompt},
                                                    {"max_tokens", 5},
                                                    {"temperature", 0},
                                                    {"echo", true},
                                                    {"logprobs", 0},
                                                    {"precision", "8"}});
  EXPECT_EQ(found["choices"][0]["text"], kPrompt + Alone("", "8").text(kPrompt, 5));
  EXPECT_EQ(found["choices"][0]["logprobs"]["tokens"].size(),
            found["usage"]["total_tokens"].get<std::size_t>());
}

TEST(ApiTest, BiasesAndPenaltiesChangeTheChoice) {
  NanoApi api;
  Json body = {{"prompt", kPrompt}, {"max_tokens", 8}, {"temperature", 0}, {"logprobs", 0}};
  const std::string first =
      api.answer("/v1/completions", body)["choices"][0]["logprobs"]["tokens"][0];
  const std::vector<std::int32_t> id = Alone().encoder().encode_bare(first).ids;
  ASSERT_EQ(id.size(), 1U);
  body["logit_bias"] = {{std::to_string(id[0]), -100}};
  const Json banned = api.answer("/v1/completions", body)["choices"][0]["logprobs"]["tokens"];
  EXPECT_EQ(std::count(banned.begin(), banned.end(), Json(first)), 0);
  body["logit_bias"] = {{std::to_string(id[0]), 100}};
  const Json forced = api.answer("/v1/completions", body)["choices"][0]["logprobs"]["tokens"];
  EXPECT_EQ(std::count(forced.begin(), forced.end(), Json(first)), 8);
  // A hundred outweighs the first repetitions only.
  body["logit_bias"] = {{std::to_string(id[0]), 5}};
  body["frequency_penalty"] = 2;
  body["presence_penalty"] = 2;
  const Json less = api.answer("/v1/completions", body)["choices"][0]["logprobs"]["tokens"];
  EXPECT_LT(std::count(less.begin(), less.end(), Json(first)), 8);
}

TEST(ApiTest, TokensThereAndBack) {
  NanoApi api;
  const Json found = api.answer("/tokenize", {{"prompt", "café 12"}, {"return_token_strs", true}});
  EXPECT_EQ(found["tokens"].get<std::vector<std::int32_t>>(),
            Alone().encoder().encode("café 12").ids);
  EXPECT_EQ(found["count"], found["tokens"].size());
  EXPECT_EQ(api.answer("/detokenize", {{"tokens", found["tokens"]}})["prompt"], "café 12");
}

TEST(ApiTest, RandomPrecisionIsDrawnPerRequestAndTold) {
  NanoApi api;
  std::set<std::string> seen;
  for (int i = 0; i < 40 && seen.size() < 3; ++i) {
    const Json found = api.answer(
        "/v1/completions", {{"prompt", "a"}, {"max_tokens", 1}, {"precision", "random:4,6,8"}});
    seen.insert(found["precision"].get<std::string>());
  }
  EXPECT_EQ(seen, (std::set<std::string>{"w4a4kv4", "w6a6kv6", "w8a8kv8"}));
  const auto drawn = [&](int seed) {
    return api.answer("/v1/completions", {{"prompt", "a"},
                                          {"max_tokens", 1},
                                          {"precision", "random:4,6,8"},
                                          {"seed", seed}})["precision"];
  };
  for (int seed = 0; seed < 5; ++seed) EXPECT_EQ(drawn(seed), drawn(seed));
}

TEST(ApiTest, PlansByNameAndAsObjects) {
  const qalof::testing::TempDir dir;
  const Json plan = {
      {"format_version", 1}, {"default", "w8a8kv8"}, {"modules", {{"h.0.attn.c_attn", "w4a8"}}}};
  std::ofstream(dir.file("eco.json")) << plan.dump();
  CatalogOptions options;
  options.plans = {"eco=" + dir.file("eco.json")};
  NanoApi api(options);
  const Json body = {{"prompt", kPrompt}, {"max_tokens", 10}, {"temperature", 0}};
  Json named = body, custom = body;
  named["precision"] = "eco";
  custom["precision"] = plan;
  const std::string expected = Alone("", dir.file("eco.json")).text(kPrompt, 10);
  for (const Json& request : {named, custom}) {
    const Json found = api.answer("/v1/completions", request);
    EXPECT_EQ(found["choices"][0]["text"], expected);
    EXPECT_THAT(found["precision"].get<std::string>(), HasSubstr("mixed"));
  }
}

TEST(ApiTest, ModelsAreTheBaseAndItsAdapters) {
  const qalof::testing::TempDir dir;
  write_adapter(dir.file("one"), 1);
  CatalogOptions options;
  options.name = "nano";
  options.adapters = {"first=" + dir.file("one")};
  NanoApi api(options);
  const Json found = parse_json(api.get("/v1/models").body, "response");
  ASSERT_EQ(found["data"].size(), 2U);
  EXPECT_EQ(found["data"][0]["id"], "nano");
  EXPECT_TRUE(found["data"][0]["parent"].is_null());
  EXPECT_EQ(found["data"][1]["id"], "first");
  EXPECT_EQ(found["data"][1]["parent"], "nano");
  EXPECT_EQ(found["data"][1]["object"], "adapter");
}

struct Refusal {
  const char* route;
  const char* body;
  int status;
  const char* says;
};

TEST(ApiTest, HostileBodiesAreRefusedByName) {
  NanoApi api;
  const Refusal refusals[] = {
      {"/v1/completions", "", 400, "not valid JSON"},
      {"/v1/completions", "{", 400, "not valid JSON"},
      {"/v1/completions", "[]", 400, "found a list, expected an object"},
      {"/v1/completions", "{}", 400, "prompt is missing"},
      {"/v1/completions", R"({"prompt":"a","prompt":"b"})", 400, "twice"},
      {"/v1/completions", R"({"prompt":"a"} x)", 400, "not valid JSON"},
      {"/v1/completions", "{\"prompt\":\"\xff\"}", 400, "not valid JSON"},
      {"/v1/completions", R"({"prompt":"\ud800"})", 400, "not valid JSON"},
      {"/v1/completions", R"({"prompt":"a\u0000b"})", 400, "NUL"},
      {"/v1/completions", R"({"prompt":null})", 400, "prompt is missing"},
      {"/v1/completions", R"({"prompt":[]})", 400, "an empty list"},
      {"/v1/completions", R"({"prompt":[[]]})", 400, "an empty list"},
      {"/v1/completions", R"({"prompt":["a",1]})", 400, "a list with an integer"},
      {"/v1/completions", R"({"prompt":[1,"a"]})", 400, "a list with a string"},
      {"/v1/completions", R"({"prompt":[1.5]})", 400, "a list with a number"},
      {"/v1/completions", R"({"prompt":[-1]})", 400, "token id -1"},
      {"/v1/completions", R"({"prompt":[640]})", 400, "token id 640"},
      {"/v1/completions", R"({"prompt":[99999999999]})", 400, "token id"},
      {"/v1/completions", R"({"prompt":{"a":1}})", 400, "found an object"},
      {"/v1/completions", R"({"prompt":"a","max_tokens":-1})", 400, "max_tokens: found -1"},
      {"/v1/completions", R"({"prompt":"a","max_tokens":0})", 400, "max_tokens: found 0"},
      {"/v1/completions", R"({"prompt":"a","max_tokens":1e3})", 400, "found a number"},
      {"/v1/completions", R"({"prompt":"a","max_tokens":"5"})", 400, "found a string"},
      {"/v1/completions", R"({"prompt":"a","max_tokens":1000000000000})", 400, "max_tokens"},
      {"/v1/completions", R"({"prompt":"a","max_tokens":18446744073709551616})", 400, "64"},
      {"/v1/completions", R"({"prompt":"a","max_tokens":257})", 400, "256 positions"},
      {"/v1/completions", R"({"prompt":"a","temperature":NaN})", 400, "NaN"},
      {"/v1/completions", R"({"prompt":"a","temperature":Infinity})", 400, "JSON"},
      {"/v1/completions", R"({"prompt":"a","temperature":1e999})", 400, "overflow"},
      {"/v1/completions", R"({"prompt":"a","temperature":-0.1})", 400, "temperature"},
      {"/v1/completions", R"({"prompt":"a","temperature":2.1})", 400, "0 to 2"},
      {"/v1/completions", R"({"prompt":"a","top_p":0})", 400, "top_p"},
      {"/v1/completions", R"({"prompt":"a","top_p":1.01})", 400, "top_p"},
      {"/v1/completions", R"({"prompt":"a","top_k":-1})", 400, "top_k"},
      {"/v1/completions", R"({"prompt":"a","n":0})", 400, "n: found 0"},
      {"/v1/completions", R"({"prompt":"a","n":65})", 400, "n: found 65"},
      {"/v1/completions", R"({"prompt":"a","n":1000000})", 400, "1 to 64"},
      {"/v1/completions", R"({"prompt":["a","b"],"n":33})", 400, "at most 64 choices"},
      {"/v1/completions", R"({"prompt":"a","best_of":2})", 400, "best_of"},
      {"/v1/completions", R"({"prompt":"a","suffix":"b"})", 400, "suffix is not supported"},
      {"/v1/completions", R"({"prompt":"a","stop":["1","2","3","4","5"]})", 400, "at most 4"},
      {"/v1/completions", R"({"prompt":"a","stop":""})", 400, "a string of 0 bytes"},
      {"/v1/completions", R"({"prompt":"a","stop":[1]})", 400, "strings"},
      {"/v1/completions", R"({"prompt":"a","logprobs":6})", 400, "0 to 5"},
      {"/v1/completions", R"({"prompt":"a","logprobs":true})", 400, "found a boolean"},
      {"/v1/completions", R"({"prompt":"a","presence_penalty":3})", 400, "-2 to 2"},
      {"/v1/completions", R"({"prompt":"a","logit_bias":{"x":1}})", 400, "token ids"},
      {"/v1/completions", R"({"prompt":"a","logit_bias":{"1":101}})", 400, "-100 to 100"},
      {"/v1/completions", R"({"prompt":"a","logit_bias":{"99999999999999999999":1}})", 400, "ids"},
      {"/v1/completions", R"({"prompt":"a","logit_bias":[1]})", 400, "an object"},
      {"/v1/completions", R"({"prompt":"a","stream":"yes"})", 400, "true or false"},
      {"/v1/completions", R"({"prompt":"a","stream_options":{}})", 400, "stream"},
      {"/v1/completions", R"({"prompt":"a","temprature":1})", 400,
       "Unrecognized request argument supplied: temprature (nearest known: temperature)"},
      {"/v1/completions", R"({"prompt":"a","seed":1.5})", 400, "seed"},
      {"/v1/completions", R"({"prompt":"a","seed":18446744073709551615})", 400, "64 signed bits"},
      {"/v1/completions", R"({"prompt":"a","max_tokens":18446744073709551615})", 400,
       "64 signed bits"},
      {"/v1/completions", R"({"prompt":"a","model":"other"})", 404, "does not exist"},
      {"/v1/completions", R"({"prompt":"a","model":"../etc"})", 404, "does not exist"},
      {"/v1/completions", R"({"prompt":"a","model":7})", 400, "model: found an integer"},
      {"/v1/completions", R"({"prompt":"a","precision":"9"})", 400, "precision"},
      {"/v1/completions", R"({"prompt":"a","precision":""})", 400, "precision"},
      {"/v1/completions", R"({"prompt":"a","precision":"/etc/passwd"})", 400, "precision"},
      {"/v1/completions", R"({"prompt":"a","precision":"plan.json"})", 400, "precision"},
      {"/v1/completions", R"({"prompt":"a","precision":8})", 400, "found number"},
      {"/v1/completions", R"({"prompt":"a","precision":"random:4"})", 400, "nothing to draw"},
      {"/v1/completions", R"({"prompt":"a","precision":{"default":"8"}})", 400, "format_version"},
      {"/v1/completions",
       R"({"prompt":"a","precision":{"format_version":1,"default":"8","scheme":"g64"}})", 400,
       "scheme"},
      {"/v1/completions",
       R"({"prompt":"a","precision":{"format_version":1,"default":"8","modules":{"x":"4"}}})", 400,
       "nearest"},
      {"/v1/completions", R"({"prompt":"a","kv_bits":9})", 400, "kv_bits"},
      {"/v1/completions", R"({"prompt":"a","kv_bits":1})", 400, "kv_bits"},
      {"/v1/chat/completions", R"({"messages":[{"role":"user","content":"a"}]})", 400,
       "no chat template"},
      {"/v1/chat/completions", R"({"messages":[]})", 400, "messages"},
      {"/v1/chat/completions", R"({"messages":[{"role":"user"}]})", 400, "content is missing"},
      {"/v1/chat/completions", R"({"messages":[1]})", 400, "messages[0]"},
      {"/v1/chat/completions",
       R"({"messages":[{"role":"user","content":[{"type":"image_url","text":"x"}]}]})", 400,
       "type"},
      {"/v1/chat/completions", R"({"messages":[{"role":"u","content":"a"}],"tools":[1]})", 400,
       "tools is not supported"},
      {"/v1/answers", R"({"question":"a"})", 400, "context is missing"},
      {"/v1/answers", R"({"question":"a","context":"b"})", 400, "no question-answering head"},
      {"/v1/classifications", R"({"input":"a"})", 400, "no classification head"},
      {"/v1/classifications", R"({"input":[]})", 400, "0 texts"},
      {"/tokenize", R"({})", 400, "prompt is missing"},
      {"/detokenize", R"({"tokens":[640]})", 400, "token id 640"},
      {"/detokenize", R"({"tokens":"a"})", 400, "a list of token ids"},
      {"/v1/load_lora_adapter", R"({"lora_name":"a","lora_path":"b"})", 403,
       "--allow_adapter_loading"},
      {"/v1/unload_lora_adapter", R"({"lora_name":"a"})", 403, "--allow_adapter_loading"},
  };
  for (const Refusal& refusal : refusals) {
    const HttpResponse response = api.call(NanoApi::request("POST", refusal.route, refusal.body));
    EXPECT_EQ(response.status, refusal.status) << refusal.body << "\n" << response.body;
    const Json json = parse_json(response.body, "response");
    EXPECT_THAT(json["error"]["message"].get<std::string>(), HasSubstr(refusal.says))
        << refusal.body;
    for (const char* member : {"type", "param", "code"})
      EXPECT_TRUE(json["error"].contains(member));
  }
  std::string deep = R"({"prompt":)" + std::string(40, '[') + std::string(40, ']') + "}";
  EXPECT_EQ(api.call(NanoApi::request("POST", "/v1/completions", deep)).status, 400);
}

TEST(ApiTest, EveryRouteAsksForAKeyExceptHealth) {
  const qalof::testing::TempDir dir;
  std::ofstream(dir.file("keys")) << "abcdefghijklmnop\n";
  NanoApi api({}, {}, {}, ApiKeys::read(dir.file("keys")));
  std::size_t open = 0;
  for (const Route& route : Api::routes()) {
    for (const char* authorization : {"", "Bearer abcdefghijklmnoq", "Bearer abcdefghijklmnop"}) {
      HttpRequest request = NanoApi::request(route.method, route.path);
      request.authorization = authorization;
      const HttpResponse response = api.call(request);
      const bool is_right = std::string(authorization).ends_with("p");
      if (is_right || route.is_public) {
        EXPECT_NE(response.status, 401) << route.path;
      } else {
        EXPECT_EQ(response.status, 401) << route.path;
        EXPECT_THAT(header(response, "WWW-Authenticate"), Not(""));
        EXPECT_THAT(response.body, Not(HasSubstr("abcdefgh")));
      }
    }
    open += route.is_public ? 1 : 0;
  }
  EXPECT_EQ(open, 1U);
  // Nor are unknown routes and other methods told apart without one.
  for (const auto& [method, path] : {std::pair{"GET", "/v1/none"}, {"DELETE", "/v1/models"}})
    EXPECT_EQ(api.call(NanoApi::request(method, path)).status, 401);
}

TEST(ApiTest, RoutesMethodsTypesHostsAndOriginsAreChecked) {
  NanoApi api;
  EXPECT_EQ(api.get("/health").status, 200);
  EXPECT_EQ(api.get("/none").status, 404);
  EXPECT_EQ(api.get("/v1/models/").status, 404);
  EXPECT_EQ(api.get("/v1/%6dodels").status, 404);
  EXPECT_EQ(api.get("/v1/models?x=1").status, 200);
  EXPECT_EQ(parse_json(api.get("/v1/models/model").body, "response")["object"], "model");
  EXPECT_THAT(api.get("/v1/models/other").body, HasSubstr("the model `other` does not exist"));
  EXPECT_EQ(api.get("/v1/models/model/").status, 404);
  const HttpResponse wrong = api.get("/v1/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(header(wrong, "Allow"), "POST");
  HttpRequest request = NanoApi::request("POST", "/tokenize", R"({"prompt":"a"})");
  EXPECT_EQ(api.call(request).status, 200);
  request.content_type = "application/json; charset=utf-8";
  EXPECT_EQ(api.call(request).status, 200);
  for (const char* type : {"", "text/plain", "application/jsonx", "multipart/form-data"}) {
    request.content_type = type;
    EXPECT_EQ(api.call(request).status, 415) << type;
  }
  request.content_type = "application/json";
  for (const char* host : {"evil.example", "evil.example:8080", "", "127.evil", "localhost.evil"}) {
    request.host = host;
    EXPECT_EQ(api.call(request).status, 421) << host;
  }
  HttpRequest health = NanoApi::request("GET", "/health");
  health.host = "";
  EXPECT_EQ(api.call(health).status, 200);
  for (const char* host : {"localhost:1", "127.0.0.1", "[::1]:80"}) {
    request.host = host;
    EXPECT_EQ(api.call(request).status, 200) << host;
  }
  request.host = "127.0.0.1:8080";
  request.origin = "http://127.0.0.1:8080";
  EXPECT_EQ(api.call(request).status, 200);
  for (const char* origin : {"http://evil.example", "null", "http://127.0.0.1:8081"}) {
    request.origin = origin;
    EXPECT_EQ(api.call(request).status, 403) << origin;
  }
}

TEST(ApiTest, OnlyListedPrecisionsAreServedWhereAListIsGiven) {
  CatalogOptions options;
  options.precisions = {"8", "w4a8"};
  options.model.precision = "8";
  NanoApi api(options);
  const auto status = [&](const Json& precision) {
    return api
        .post("/v1/completions", {{"prompt", "a"}, {"max_tokens", 1}, {"precision", precision}})
        .status;
  };
  EXPECT_EQ(status("8"), 200);
  EXPECT_EQ(status("w8a8kv8"), 200);
  EXPECT_EQ(status("w4a8"), 200);
  EXPECT_EQ(status("4"), 400);
  EXPECT_EQ(status("random:8,4"), 400);
  EXPECT_EQ(status({{"format_version", 1}, {"default", "8"}}), 400);
}

TEST(ApiTest, AnswersAreThoseOfTheTask) {
  const qalof::testing::TempDir dir;
  write_adapter(dir.file("qa"), 3, weights::HeadKind::kSpan);
  CatalogOptions options;
  options.adapters = {"qa=" + dir.file("qa")};
  NanoApi api(options);
  std::string context;
  for (int i = 0; i < 30; ++i)
    context += "The caf\u00e9 of the old town opened in 18" + std::to_string(10 + i) + ". ";
  const std::string question = "When did it open?";
  const Json found = api.answer("/v1/answers", {{"model", "qa"},
                                                {"question", question},
                                                {"context", context},
                                                {"precision", "8"},
                                                {"max_seq_length", 64},
                                                {"doc_stride", 16}});
  Alone alone(dir.file("qa"), "8");
  Observer quiet;
  SerialFor serial;
  tasks::Qa task;
  task.doc_stride = 16;
  const runtime::RequestExecutions executions(alone.execution());
  const text::SpanPrediction expected =
      task.answer({app::make_reading(alone.handle(), alone.encoder(), quiet), executions, serial},
                  question, context, 64);
  EXPECT_EQ(found["answer"], expected.text);
  ASSERT_EQ(found["spans"].size(), 5U);
  const std::u32string points = [&] {
    std::u32string text;
    for (std::size_t i = 0; i < context.size();) {
      const bool two = (static_cast<unsigned char>(context[i]) & 0x80) != 0;
      text += U' ';
      i += two ? 2 : 1;
    }
    return text;
  }();
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(found["spans"][i]["text"], expected.n_best[i].text);
    EXPECT_DOUBLE_EQ(found["spans"][i]["probability"].get<double>(),
                     expected.n_best[i].probability);
    EXPECT_LE(found["spans"][i]["end"].get<std::size_t>(), points.size());
  }
  // Windows are counted before they are made.
  const HttpResponse many = api.post("/v1/answers", {{"model", "qa"},
                                                     {"question", question},
                                                     {"context", std::string(200'000, 'a')},
                                                     {"max_seq_length", 64},
                                                     {"doc_stride", 16}});
  EXPECT_EQ(many.status, 400);
  EXPECT_THAT(many.body, HasSubstr("at most 64 windows"));
}

TEST(ApiTest, ClassesAreThoseOfTheHead) {
  const qalof::testing::TempDir dir;
  write_adapter(dir.file("labels"), 5, weights::HeadKind::kClass);
  CatalogOptions options;
  options.adapters = {"labels=" + dir.file("labels")};
  NanoApi api(options);
  const Json found =
      api.answer("/v1/classifications", {{"model", "labels"}, {"input", {"one text", "another"}}});
  ASSERT_EQ(found["data"].size(), 2U);
  double sum = 0;
  for (const Json& p : found["data"][1]["probs"]) sum += p.get<double>();
  EXPECT_NEAR(sum, 1, 1e-9);
  EXPECT_EQ(found["data"][0]["num_classes"], 3);
}

TEST(ApiTest, AdaptersAreLoadedBelowTheirDirectoryAlone) {
  const qalof::testing::TempDir dir, outside;
  write_adapter(dir.file("one"), 1);
  write_adapter(dir.file("two"), 2);
  write_adapter(outside.file("three"), 3);
  std::filesystem::create_directory_symlink(outside.file("three"), dir.file("link"));
  std::filesystem::create_directory(dir.file("mixed"));
  std::filesystem::create_symlink(outside.file("three") + "/adapter_config.json",
                                  dir.file("mixed") + "/adapter_config.json");
  CatalogOptions options;
  options.loading_directory = dir.path();
  options.model.precision = "8";
  NanoApi api(options);
  const auto load = [&](const std::string& name, const std::string& path) {
    return api.post("/v1/load_lora_adapter", {{"lora_name", name}, {"lora_path", path}}).status;
  };
  for (const std::string& path :
       {std::string("../") + std::filesystem::path(outside.path()).filename().string() + "/three",
        outside.file("three"), std::string("link"), std::string("mixed"), std::string("."),
        std::string("one/.."), std::string("one/../../x"), std::string("none"), std::string(""),
        std::string("%2e%2e/x"), std::string(5000, 'a')})
    EXPECT_EQ(load("x", path), 400) << path;
  for (const std::string& name : {std::string("../x"), std::string(".x"), std::string("a b"),
                                  std::string(65, 'a'), std::string("model"), std::string("")})
    EXPECT_EQ(load(name, "one"), 400) << name;
  const Json body = {{"model", "mine"}, {"prompt", kPrompt}, {"max_tokens", 8}, {"temperature", 0}};
  EXPECT_EQ(api.post("/v1/completions", body).status, 404);
  EXPECT_EQ(load("mine", "one"), 200);
  EXPECT_EQ(api.answer("/v1/completions", body)["choices"][0]["text"],
            Alone(dir.file("one"), "8").text(kPrompt, 8));
  EXPECT_EQ(load("mine", "two"), 200);  // again, under the same name
  EXPECT_EQ(api.answer("/v1/completions", body)["choices"][0]["text"],
            Alone(dir.file("two"), "8").text(kPrompt, 8));
  EXPECT_EQ(api.post("/v1/unload_lora_adapter", {{"lora_name", "mine"}}).status, 200);
  EXPECT_EQ(api.post("/v1/completions", body).status, 404);
  EXPECT_EQ(api.post("/v1/unload_lora_adapter", {{"lora_name", "mine"}}).status, 404);
}

// P13: requests of four adapters and three precisions, all at once, against each alone.
TEST(ApiTest, AThousandMixedRequestsGetTheBytesOfEachAlone) {
  const qalof::testing::TempDir dir;
  CatalogOptions catalog;
  for (int i = 1; i <= 4; ++i) {
    write_adapter(dir.file(std::to_string(i)), static_cast<std::uint64_t>(i));
    catalog.adapters.push_back(fmt::format("a{}={}", i, dir.file(std::to_string(i))));
  }
  catalog.loading_directory = dir.path();
  const std::string long_start =
      "Once upon a time there was a mill by the river, and the miller had a daughter who ";
  const std::vector<std::string> prompts = {"Once", kPrompt, long_start + "sang.",
                                            long_start + "wove cloth from the reeds.", "7 + 5 ="};
  struct Case {
    std::string body, expected;
  };
  std::vector<Case> cases;
  for (int adapter = 1; adapter <= 4; ++adapter) {
    for (const char* precision : {"8", "w4a8kv4", "16"}) {
      Alone alone(dir.file(std::to_string(adapter)), precision);
      for (std::size_t p = 0; p < prompts.size(); ++p) {
        const double temperature = p % 2 == 0 ? 0 : 0.8;
        const Json body = {{"model", fmt::format("a{}", adapter)},
                           {"precision", precision},
                           {"prompt", prompts[p]},
                           {"max_tokens", 6 + p},
                           {"temperature", temperature},
                           {"seed", p}};
        cases.push_back({body.dump(), alone.text(prompts[p], 6 + p, temperature, p)});
      }
    }
  }
  for (const bool prefix_cache : {true, false}) {
    SchedulerOptions scheduler;
    scheduler.prefix_cache = prefix_cache;
    scheduler.prefill_chunk = 16;
    scheduler.max_sequences = 8;
    scheduler.kv_bytes = 3 << 20;
    NanoApi api(catalog, scheduler);
    std::atomic<int> mismatches{0}, served{0};
    std::vector<std::thread> clients;
    for (std::size_t c = 0; c < 8; ++c) {
      clients.emplace_back([&, c] {
        const RandomStream random(c, "clients");
        for (std::uint64_t i = 0; i < 125; ++i) {
          const Case& one = cases[random.below(cases.size(), i, 0)];
          const HttpResponse response =
              api.call(NanoApi::request("POST", "/v1/completions", one.body));
          ++served;
          if (response.status != 200 ||
              parse_json(response.body, "response")["choices"][0]["text"] != one.expected)
            ++mismatches;
          // The same adapter under the same name again, under load.
          if (c == 0 && i % 25 == 0) {
            EXPECT_EQ(
                api.post("/v1/load_lora_adapter", {{"lora_name", "a1"}, {"lora_path", "1"}}).status,
                200);
          }
        }
      });
    }
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(served, 1000);
    EXPECT_EQ(mismatches, 0);
    // The last answer is out before the scheduler has put its sequence away.
    for (int i = 0; i < 500 && api.scheduler().stats().running > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const SchedulerStats stats = api.scheduler().stats();
    EXPECT_EQ(stats.running, 0U);
    EXPECT_EQ(stats.kv_bytes, 0U);
    EXPECT_LE(stats.prefix_bytes, stats.kv_limit);
    std::uint64_t cached = 0;
    for (const auto& [key, counts] : stats.variants) cached += counts.cached_tokens;
    EXPECT_EQ(stats.prefix_blocks > 0, prefix_cache);
    // Without it, equal prompts that run at once still share.
    EXPECT_TRUE(cached > 0 || !prefix_cache);
    EXPECT_LT(stats.steps, 15'000U);  // they ran together
  }
}

TEST(ApiTest, MetricsTellWhatRan) {
  NanoApi api;
  api.answer("/v1/completions", {{"prompt", "a"}, {"max_tokens", 3}, {"precision", "8"}});
  const HttpResponse response = api.get("/metrics");
  EXPECT_THAT(response.content_type, HasSubstr("text/plain"));
  for (const char* line :
       {"qalof_sequences_total{adapter=\"\",precision=\"w8a8kv8\"} 1",
        "qalof_time_to_first_token_seconds_count{adapter=\"\",precision=\"w8a8kv8\"} 1",
        "qalof_inter_token_seconds_count{adapter=\"\",precision=\"w8a8kv8\"} 2",
        "qalof_sequences_ended_total{reason=\"done\"} 1", "qalof_prefix_cache_info{state=\"on\"} 1",
        "qalof_lora_requests_info{"})
    EXPECT_THAT(response.body, HasSubstr(line));
}

TEST(ApiTest, QueueMemoryAndEndAreTold) {
  SchedulerOptions scheduler;
  scheduler.max_sequences = 1;
  Limits limits;
  limits.queued_requests = 2;
  NanoApi api({}, scheduler, limits);
  const auto request = NanoApi::request(
      "POST", "/v1/completions",
      R"({"prompt":"a","max_tokens":200,"ignore_eos":true,"stream":true,"precision":"8"})");
  std::vector<std::shared_ptr<WaitingExchange>> open = {api.begin(request)};
  open[0]->wait_for_writes(1);
  open.push_back(api.begin(request));
  open.push_back(api.begin(request));
  const HttpResponse full = api.call(request);
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(header(full, "Retry-After"), "1");
  // The one that runs is left by its client, those that wait too.
  for (const auto& exchange : open) exchange->abandon();
  for (const auto& exchange : open) exchange->wait();
  EXPECT_EQ(api.scheduler().stats().ended[EndReason::kCancelled], 3U);
  api.scheduler().drain();
  EXPECT_EQ(api.call(request).status, 503);
}

// A conversation past many windows: less memory, the bits of each request alone, and beginnings
// that need not be read again.
TEST(ApiTest, WindowsTakeLessMemoryAndShareTheirBeginnings) {
  const qalof::testing::TempDir dir;
  const Json config = {
      {"model_type", "gemma3_text"}, {"vocab_size", 1024},     {"hidden_size", 48},
      {"intermediate_size", 80},     {"num_hidden_layers", 3}, {"num_attention_heads", 4},
      {"num_key_value_heads", 2},    {"head_dim", 16},         {"max_position_embeddings", 2048},
      {"query_pre_attn_scalar", 16}, {"sliding_window", 12},   {"sliding_window_pattern", 3},
      {"bos_token_id", 0},           {"eos_token_id", 0}};
  qalof::testing::write_model(dir.file("model"), config);
  std::filesystem::copy(kNanoModel + "/tokenizer.json", dir.file("model") + "/tokenizer.json");
  CatalogOptions catalog;
  catalog.model.model = dir.file("model");
  Alone alone("", "w8a8kv4", 0, dir.file("model"));
  const model::ModelConfig& parsed = alone.execution().base().config();
  const std::string long_start(900, 'x');
  for (const bool prefix_cache : {true, false}) {
    SchedulerOptions scheduler;
    scheduler.prefix_cache = prefix_cache;
    scheduler.prefill_chunk = 100;
    NanoApi api(catalog, scheduler);
    const auto ask = [&](const std::string& prompt, int tokens, int choices) {
      const Json found = api.answer("/v1/completions", {{"prompt", prompt},
                                                        {"precision", "w8a8kv4"},
                                                        {"max_tokens", tokens},
                                                        {"n", choices},
                                                        {"temperature", 0}});
      for (const Json& choice : found["choices"])
        EXPECT_EQ(choice["text"], alone.text(prompt, static_cast<std::size_t>(tokens)));
      return found;
    };
    const Json first = ask(long_start + "one", 150, 1);
    const std::size_t prompt = first["usage"]["prompt_tokens"];
    ASSERT_GT(prompt, 400U);
    const std::size_t capacity = prompt + 150 - 1, back = 100 + kPrefixBlockTokens;
    const runtime::KvPrecision& kv = alone.execution().kv();
    EXPECT_EQ(first["usage"]["kv_bytes"], runtime::KvCache::bytes_for(parsed, kv, capacity, back));
    model::ModelConfig without = parsed;
    for (auto& layer : without.attention) layer.window = 0;
    EXPECT_LT(first["usage"]["kv_bytes"].get<std::size_t>(),
              runtime::KvCache::bytes_for(without, kv, capacity) * 3 / 4);
    // The next turn, another end after half of the beginning, and three choices at once.
    const auto cached = [](const Json& found) {
      return found["usage"]["prompt_tokens_details"]["cached_tokens"].get<std::size_t>();
    };
    const std::string answer = first["choices"][0]["text"];
    const Json next = ask(long_start + "one" + answer + " and", 40, 1);
    const Json other = ask(long_start.substr(0, 500) + "two", 20, 1);
    ask("Three " + long_start, 30, 3);
    EXPECT_EQ(cached(next) >= prompt / 32 * 32, prefix_cache) << cached(next);
    EXPECT_EQ(cached(other) >= 200, prefix_cache) << cached(other);
    EXPECT_EQ(api.scheduler().stats().prefix_blocks > 0, prefix_cache);
  }
}

TEST(ApiTest, WhatDoesNotFitIsRefusedAndWhatFitsLaterWaits) {
  SchedulerOptions scheduler;
  scheduler.kv_bytes = 100 * 4 * 2 * 128;  // 100 tokens of 8 bits, but for the scales
  NanoApi api({}, scheduler);
  const auto body = [](int tokens) {
    return Json{{"prompt", "a"}, {"max_tokens", tokens}, {"ignore_eos", true}, {"precision", "8"}};
  };
  const HttpResponse refused = api.post("/v1/completions", body(120));
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("--kv_cache_mb"));
  std::vector<std::shared_ptr<WaitingExchange>> open;
  for (int i = 0; i < 6; ++i)
    open.push_back(api.begin(NanoApi::request("POST", "/v1/completions", body(60).dump())));
  for (const auto& exchange : open) EXPECT_EQ(exchange->wait().status, 200);
}

TEST(ApiTest, DeadlinesEndRequests) {
  Limits limits;
  limits.request_time = std::chrono::milliseconds(1);
  NanoApi api({}, {}, limits);
  const HttpResponse response =
      api.post("/v1/completions", {{"prompt", "a"}, {"max_tokens", 250}, {"ignore_eos", true}});
  EXPECT_EQ(response.status, 504);
  const HttpResponse stream =
      api.post("/v1/completions",
               {{"prompt", "a"}, {"max_tokens", 250}, {"ignore_eos", true}, {"stream", true}});
  EXPECT_THAT(stream.body, HasSubstr("\"code\":\"timeout\""));
}

TEST(ApiTest, ElasticRequestsGetFewerBitsUnderLoadAndSaySo) {
  CatalogOptions catalog;
  catalog.elastic = {"8", "4"};
  SchedulerOptions scheduler;
  scheduler.elastic_levels = 2;
  scheduler.max_sequences = 1;
  scheduler.target_first_token = std::chrono::milliseconds(1);
  NanoApi api(catalog, scheduler);
  const Json body = {
      {"prompt", kPrompt}, {"max_tokens", 60}, {"temperature", 0}, {"ignore_eos", true}};
  EXPECT_EQ(api.answer("/v1/completions", body)["precision"], "w8a8kv8");
  std::vector<std::shared_ptr<WaitingExchange>> open;
  for (int i = 0; i < 12; ++i)
    open.push_back(api.begin(NanoApi::request("POST", "/v1/completions", body.dump())));
  std::map<std::string, int> seen;
  for (const auto& exchange : open) {
    const Json found = parse_json(exchange->wait().body, "response");
    ++seen[found["precision"].get<std::string>()];
    EXPECT_EQ(found["elastic"]["precision"], found["precision"] == "w8a8kv8" ? "8" : "4");
  }
  EXPECT_GE(seen["w4a4kv4"], 6);
  Json fixed = body;
  fixed["precision"] = "8";
  EXPECT_EQ(api.answer("/v1/completions", fixed)["precision"], "w8a8kv8");
  EXPECT_THAT(api.get("/metrics").body,
              HasSubstr("qalof_elastic_sequences_total{level=\"1\",precision=\"4\"}"));
}

}  // namespace api_test
}  // namespace qalof::serve
