/* The AVX2 entries by name, for the AVX-512 table, which overrides the dot products alone: ss_quantize_avx2, ... */
#ifndef SS_AVX2_H
#define SS_AVX2_H

#include "kernels/kernels.h"

#define SS_KERNEL(result, entry, args) result ss_##entry##_avx2 args;
#include "kernels/kernels.def"
#undef SS_KERNEL
extern ss_fgemm_fn ss_fgemm_f32_avx2, ss_fgemm_f16_avx2, ss_fgemm_bf16_avx2;

#endif
