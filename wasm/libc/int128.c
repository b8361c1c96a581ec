/* __multi3: clang calls it for the 128-bit product of a checked 64-bit multiplication (__builtin_mul_overflow). */
#include <stdint.h>

__int128 __multi3(__int128 a, __int128 b);

__int128 __multi3(__int128 a, __int128 b) {
  const uint64_t a_low = (uint64_t)a, b_low = (uint64_t)b;
  const uint64_t a_high = (uint64_t)((unsigned __int128)a >> 64), b_high = (uint64_t)((unsigned __int128)b >> 64);
  const uint64_t mask = UINT32_MAX;
  const uint64_t low = (a_low & mask) * (b_low & mask);
  const uint64_t middle = (a_low >> 32) * (b_low & mask) + (low >> 32);
  const uint64_t other = (a_low & mask) * (b_low >> 32) + (middle & mask);
  const uint64_t high = (a_low >> 32) * (b_low >> 32) + (middle >> 32) + (other >> 32);
  const uint64_t product_low = other << 32 | (low & mask);
  return (__int128)((unsigned __int128)(high + a_low * b_high + a_high * b_low) << 64 | product_low);
}
