// The program on an emulated CPU without AVX (needs qemu-x86_64 of qemu-user).
#include "cli/program.h"

namespace qalof::cli {
namespace old_cpu_test {

class OldCpuTest : public CliTest {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "sanitizers do not run under emulation";
#endif
#if !defined(__x86_64__)
    GTEST_SKIP() << "an x86 matter";
#endif
    if (std::system("qemu-x86_64 --version >/dev/null 2>&1") != 0)
      GTEST_SKIP() << "qemu-x86_64 is not installed";
  }
  // The program on a CPU of 2008: SSE 4.2, no AVX. It takes the best set there, whatever these
  // tests run on.
  ProgramRun run_old(const std::string& arguments) {
    return run_behind("QALOF_ISA= qemu-x86_64 -cpu Nehalem ", arguments);
  }
};

TEST_F(OldCpuTest, DoctorFindsThePortableSetAlone) {
  const ProgramRun found = run_old("doctor --json");
  ASSERT_EQ(found.code, 0) << found.err;
  EXPECT_EQ(parse_json(found.out, "doctor")["isa"], "portable");
}

TEST_F(OldCpuTest, TextIsThatOfThePortableSetHere) {
  for (const std::string precision : {"w8a8kv8", "w4a4kv4", "16", "32"}) {
    const std::string arguments = "generate --model_name_or_path " QALOF_SOURCE_DIR
                                  "/assets/nano/model --prompt 'Hugo has' --max_new_tokens 8 "
                                  "--threads 2 --json --precision " +
                                  precision;
    const ProgramRun old = run_old(arguments);
    ASSERT_EQ(old.code, 0) << precision << ": " << old.err;
    const ProgramRun here = run_behind("QALOF_ISA=portable ", arguments);
    ASSERT_EQ(here.code, 0) << here.err;
    EXPECT_EQ(parse_json(old.out, "old")["ids"], parse_json(here.out, "here")["ids"]) << precision;
  }
}

}  // namespace old_cpu_test
}  // namespace qalof::cli
