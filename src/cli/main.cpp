// Both programs start here; which commands are built in is decided by what is linked
// (no_train_commands.cpp or train_commands.cpp).
#include "cli/commands.h"

int main(int argc, char** argv) { return qalof::cli::run_main(argc, argv); }
