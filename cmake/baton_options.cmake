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
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_package(simdjson REQUIRED)

# Foreign headers are most of what a source has the compiler read: they are parsed once for the rooms and once for their
# tests. That takes one set of macros everywhere. The fuzz preset does without, so that each source of a room must
# include what it uses.
option(BATON_PRECOMPILE "Precompile the headers of foreign libraries" ON)
target_compile_definitions(baton_flags INTERFACE BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_DISABLE_VISIBILITY
  $<TARGET_PROPERTY:Boost::json,INTERFACE_COMPILE_DEFINITIONS>
  $<TARGET_PROPERTY:simdjson::simdjson,INTERFACE_COMPILE_DEFINITIONS>)
if(BATON_PRECOMPILE)
  # Without the time stamp a compiler cache knows the same header again.
  target_compile_options(baton_flags INTERFACE "SHELL:-Xclang -fno-pch-timestamp")
  set(baton_foreign_headers
    <algorithm> <array> <charconv> <chrono> <cmath> <cstdint> <cstring> <deque> <filesystem> <fstream> <functional> <map>
    <memory> <optional> <random> <ranges> <set> <span> <string> <string_view> <thread> <unordered_map> <utility> <variant>
    <vector> <fmt/format.h> <boost/asio/any_io_executor.hpp> <boost/asio/awaitable.hpp> <boost/json.hpp> <simdjson.h>)
  file(WRITE ${CMAKE_BINARY_DIR}/precompiled.cc "")
  foreach(kind rooms tests)
    add_library(baton_precompiled_${kind} OBJECT ${CMAKE_BINARY_DIR}/precompiled.cc)
    target_link_libraries(baton_precompiled_${kind} PRIVATE baton_flags Threads::Threads fmt::fmt Boost::json simdjson::simdjson)
  endforeach()
  target_link_libraries(baton_precompiled_tests PRIVATE GTest::gtest)
  target_precompile_headers(baton_precompiled_rooms PRIVATE ${baton_foreign_headers})
  target_precompile_headers(baton_precompiled_tests PRIVATE ${baton_foreign_headers} <gtest/gtest.h>)
endif()

# baton_precompiled(TARGET rooms|tests)
function(baton_precompiled target kind)
  if(BATON_PRECOMPILE)
    target_precompile_headers(${target} REUSE_FROM baton_precompiled_${kind})
  endif()
endfunction()
