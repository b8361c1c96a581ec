/* What the AVX-512 table takes from AVX2. */
#ifndef SS_AVX2_H
#define SS_AVX2_H

#include "kernels/isa.h"

void ss_quantize_avx2(int8_t *q, ss_act_block *b, const float *x, size_t n);
void ss_rmsnorm_avx2(float *y, const float *x, const float *w, size_t n, float eps);
void ss_add_avx2(float *y, const float *x, size_t n);
extern ss_fgemm_fn ss_fgemm_f32_avx2, ss_fgemm_f16_avx2, ss_fgemm_bf16_avx2;

#endif
