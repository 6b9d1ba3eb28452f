// A hub behind TLS: who is trusted, and that a redirect never leaves https.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "core/file.h"
#include "io/hub/download.h"
#include "io/hub/http.h"
#include "support/error_of.h"
#include "support/fake_hub.h"
#include "support/temp_dir.h"
#include "support/tls_front.h"

namespace qalof::io {
namespace hub_tls_test {

using qalof::testing::error_of;
using qalof::testing::FakeHub;
using ::testing::HasSubstr;

class HubTlsTest : public ::testing::Test {
 protected:
  explicit HubTlsTest(FakeHub::Files files = {{"config.json", {"{}"}},
                                              {"model.safetensors", {"weights"}}})
      : hub_(std::move(files)) {
    std::signal(SIGPIPE, SIG_IGN);  // of the front, when a client hangs up
    const std::string url = hub_.url();
    front_ = std::make_unique<qalof::testing::TlsFront>(std::stoi(url.substr(url.rfind(':') + 1)),
                                                        dir_.file("certificate.pem"));
    settings_.endpoint = "https://127.0.0.1:" + std::to_string(front_->port());
    settings_.cache = dir_.file("hub");
    settings_.token = "hf_secret";
    settings_.certificates = dir_.file("certificate.pem");
    settings_.retry_seconds = 0.01;
  }
  void SetUp() override {
    bool can_download = false;
    const std::string library = http_library(&can_download);
    if (!can_download) GTEST_SKIP() << library;
  }
  HubResult get() {
    Observer silent;
    return download(*parse_hub_name("org/name"), HubUse::kAny, settings_, silent, nullptr);
  }

  qalof::testing::TempDir dir_;
  FakeHub hub_;
  std::unique_ptr<qalof::testing::TlsFront> front_;
  HubSettings settings_;
};

class HubTlsLargeTest : public HubTlsTest {
 protected:
  HubTlsLargeTest()
      : HubTlsTest({{"config.json", {"{}"}}, {"model.safetensors", {"weights", true}}}) {}
};

TEST_F(HubTlsTest, ATrustedHubIsReadAndGetsTheToken) {
  const HubResult result = get();
  EXPECT_EQ(read_file(result.path + "/model.safetensors", 100), "weights");
  for (const auto& asked : hub_.hub().asked())
    EXPECT_EQ(asked.header("authorization"), "Bearer hf_secret");
}

TEST_F(HubTlsTest, ACertificateThatNobodyTrustsIsRefusedBeforeAnythingIsSent) {
  settings_.certificates.clear();
  const auto error = error_of([&] { get(); });
  EXPECT_EQ(error.kind, ErrorKind::kNetwork);
  EXPECT_THAT(error.message, HasSubstr("certificate"));
  EXPECT_TRUE(hub_.hub().asked().empty());
}

TEST_F(HubTlsTest, ACertificateOfAnotherHostIsRefused) {
  settings_.endpoint = "https://localhost:" + std::to_string(front_->port());
  const auto error = error_of([&] { get(); });
  EXPECT_EQ(error.kind, ErrorKind::kNetwork);
  EXPECT_TRUE(hub_.hub().asked().empty());
}

TEST_F(HubTlsLargeTest, HttpsIsNotLeftByARedirect) {
  const auto error = error_of([&] { get(); });
  EXPECT_EQ(error.kind, ErrorKind::kNetwork);
  EXPECT_THAT(error.message, HasSubstr("expected an https address"));
  EXPECT_EQ(hub_.storage().connections(), 0);
}

}  // namespace hub_tls_test
}  // namespace qalof::io
