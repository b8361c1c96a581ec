# Finds the clang, wasm-ld and llvm-ar that build the WebAssembly modules and sets SS_LLVM to their folder ("" if none).
# In order: the environment's SKIPSTONE_LLVM; a current Emscripten on PATH; Debian's packages, newest first; PATH.
# Script use:  cmake -P wasm/find_llvm.cmake   prints the folder.
#
# Nothing of Emscripten but its compiler and linker is used: the modules have no libc and no JavaScript glue.
cmake_minimum_required(VERSION 3.25)
set(SS_LLVM_OLDEST 18) # the relaxed SIMD opcodes as they were standardised

# Sets `out` to TRUE if `folder` has all three programs and its clang is new enough.
function(ss_llvm_usable out folder)
  set(${out} FALSE PARENT_SCOPE)
  foreach(program clang wasm-ld llvm-ar)
    if(NOT EXISTS ${folder}/${program})
      return()
    endif()
  endforeach()
  execute_process(COMMAND ${folder}/clang --version OUTPUT_VARIABLE version ERROR_QUIET)
  if(version MATCHES "clang version ([0-9]+)" AND CMAKE_MATCH_1 GREATER_EQUAL SS_LLVM_OLDEST)
    set(${out} TRUE PARENT_SCOPE)
  endif()
endfunction()

function(ss_find_llvm)
  set(candidates "")
  find_program(emcc NAMES emcc NO_CACHE)
  find_program(em_config NAMES em-config NO_CACHE)
  if(emcc AND em_config) # Debian's own is too old and fails ss_llvm_usable
    execute_process(COMMAND ${em_config} LLVM_ROOT OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(root)
      list(APPEND candidates ${root})
    endif()
  endif()
  foreach(version RANGE 30 ${SS_LLVM_OLDEST} -1)
    list(APPEND candidates /usr/lib/llvm-${version}/bin)
  endforeach()
  find_program(wasm_ld NAMES wasm-ld NO_CACHE)
  if(wasm_ld)
    get_filename_component(folder ${wasm_ld} DIRECTORY)
    list(APPEND candidates ${folder})
  endif()
  if(DEFINED ENV{SKIPSTONE_LLVM}) # an order, not a proposal
    set(candidates $ENV{SKIPSTONE_LLVM})
  endif()
  set(SS_LLVM "" PARENT_SCOPE)
  foreach(folder ${candidates})
    ss_llvm_usable(usable ${folder})
    if(usable)
      set(SS_LLVM ${folder} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  ss_find_llvm()
  execute_process(COMMAND ${CMAKE_COMMAND} -E echo "${SS_LLVM}")
endif()
