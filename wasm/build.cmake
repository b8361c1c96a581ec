# One WebAssembly module: the core with wasm/*.c as its host. Included by the top CMakeLists.txt in the wasm-* presets;
# SS_WASM_RELAXED and SS_WASM_THREADS say which of the four it is.
#
# The module imports env.memory and nothing else. What the loader has to know:
#   memory     at least SS_WASM_INITIAL_PAGES pages, in the threaded modules shared and with a maximum
#   stack      256 KB at the bottom of memory: an overflow traps, it does not overwrite data
#   exports    those of exports.c (export_name), __stack_pointer and __heap_base (globals); a worker sets its own
#              __stack_pointer.value before it calls anything
#   start      in threaded modules a start function copies the data segments once, whoever instantiates first
set(SS_WASM_INITIAL_PAGES 32) # 2 MB
math(EXPR initial_bytes "${SS_WASM_INITIAL_PAGES} * 65536")

target_compile_options(ss_flags INTERFACE -msimd128 -mbulk-memory -fvisibility=hidden -ffunction-sections
  -fdata-sections -isystem ${CMAKE_CURRENT_LIST_DIR}/libc)
set(name skipstone-simd128)
set(link_flags --no-entry --import-memory --stack-first -z stack-size=262144 --initial-memory=${initial_bytes}
  --export=__stack_pointer --export=__heap_base --gc-sections -O2 --strip-all "SHELL:-mllvm -inline-threshold=-100"
  "SHELL:-mllvm -disable-lsr" "SHELL:-mllvm -enable-merge-functions") # less code; the kernels are not of this link's making
if(SS_WASM_RELAXED)
  set(name skipstone-relaxed)
  target_compile_options(ss_flags INTERFACE -mrelaxed-simd)
endif()
if(SS_WASM_THREADS)
  string(APPEND name -threads)
  target_compile_options(ss_flags INTERFACE -matomics)
  target_compile_definitions(ss_flags INTERFACE SS_WASM_THREADS=1)
  list(APPEND link_flags --shared-memory --max-memory=4294967296)
else()
  target_compile_definitions(ss_flags INTERFACE SS_WASM_THREADS=0)
endif()

# For size: the SIMD kernels are unrolled by hand and lose no speed by it; the rest is optimised across files.
target_compile_options(ss_kernels PRIVATE -Os)
set_property(SOURCE src/kernels/kernels.c src/kernels/wasm_simd128_float.c APPEND PROPERTY COMPILE_OPTIONS -Oz)
foreach(layer ss_base ss_model ss_route)
  target_compile_options(${layer} PRIVATE -Oz -flto)
endforeach()

file(GLOB sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} wasm/*.c wasm/*.h wasm/libc/*.c wasm/libc/*.h)
add_executable(${name} ${sources})
target_compile_options(${name} PRIVATE -Oz -flto)
target_link_libraries(${name} PRIVATE ${SS_CORE})
target_link_options(${name} PRIVATE ${link_flags})
set_target_properties(${name} PROPERTIES SUFFIX .wasm RUNTIME_OUTPUT_DIRECTORY ${CMAKE_SOURCE_DIR}/wasm/dist)
# These must not be compiled into calls of themselves, and calls of them appear after link-time optimisation.
set_source_files_properties(wasm/libc/string.c wasm/libc/int128.c PROPERTIES COMPILE_OPTIONS "-fno-builtin;-fno-lto")
