# CMake toolchain of the wasm-* presets: plain clang and wasm-ld, no libc, no Emscripten glue.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR wasm32)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

if(NOT SS_LLVM)
  include(${CMAKE_CURRENT_LIST_DIR}/find_llvm.cmake)
  ss_find_llvm()
  if(NOT SS_LLVM)
    message(FATAL_ERROR "no clang with wasm-ld and llvm-ar found: put a current Emscripten on PATH, or install Debian's "
      "clang-22 lld-22 llvm-22, or set SKIPSTONE_LLVM to the folder of such a clang (18 or newer)")
  endif()
endif()
set(SS_LLVM ${SS_LLVM} CACHE PATH "folder of clang, wasm-ld and llvm-ar")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SS_LLVM)

set(CMAKE_C_COMPILER ${SS_LLVM}/clang)
set(CMAKE_C_COMPILER_TARGET wasm32-unknown-unknown)
set(CMAKE_AR ${SS_LLVM}/llvm-ar CACHE FILEPATH "")
set(CMAKE_RANLIB ${SS_LLVM}/llvm-ar CACHE FILEPATH "")
set(CMAKE_C_ARCHIVE_CREATE "<CMAKE_AR> crs <TARGET> <OBJECTS>")
set(CMAKE_C_ARCHIVE_FINISH "")
# wasm-ld itself and not the clang driver: the driver runs any wasm-opt on PATH over the result, and Debian's corrupts
# the relaxed opcodes.
set(CMAKE_C_LINK_EXECUTABLE "${SS_LLVM}/wasm-ld <LINK_FLAGS> <OBJECTS> <LINK_LIBRARIES> -o <TARGET>")
