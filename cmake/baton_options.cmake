# Compiler, warnings, sanitizers and the packages every room may link.
set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE OFF)

option(BATON_FUZZ "Build the libFuzzer targets (*_fuzz.cc)" OFF)
option(BATON_BENCH "Build the microbenchmarks (*_bench.cc)" OFF)
option(BATON_TESTS "Build the room tests (*_test.cc)" ON)
set(BATON_SANITIZE "" CACHE STRING "Value of -fsanitize=, empty for none")

add_library(baton_flags INTERFACE)
target_compile_options(baton_flags INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Werror -Wthread-safety
  # The arithmetic law: a product and a sum fuse only where the source says fma.
  -ffp-contract=off -fno-fast-math -fno-omit-frame-pointer)
target_link_options(baton_flags INTERFACE -fuse-ld=lld)
target_include_directories(baton_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_definitions(baton_flags INTERFACE BATON_VERSION="${PROJECT_VERSION}")
if(BATON_SANITIZE)
  target_compile_options(baton_flags INTERFACE -fsanitize=${BATON_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(baton_flags INTERFACE -fsanitize=${BATON_SANITIZE} -fno-sanitize-recover=all)
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(GTest REQUIRED)
