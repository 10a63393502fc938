// What is part of the library's ABI. Linux only, so one spelling serves static and shared builds.
#pragma once

#define FAASKIT_EXPORT __attribute__((visibility("default")))
