// Marks what the shared library shows; everything else in it is hidden.
#pragma once

#if defined(__GNUC__)
#define QALOF_API __attribute__((visibility("default")))
#else
#define QALOF_API
#endif
