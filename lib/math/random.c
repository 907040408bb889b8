/*
 * Random numbers.
 *
 * xoshiro256**: result = rotl(s1 * 5, 7) * 9; the state is linear over GF(2). splitmix64 fills it from seed and stream.
 *
 * PyTorch on a CPU: MT19937 (Matsumoto, Nishimura 1998), init_genrand from the low 32 bits of the seed. randn of n >= 16 float32: n
 * uniforms u = (next & 0xffffff) 2^-24, then each block of 16 becomes, for j < 8,
 *     r = sqrt(-2 ln(1 - u_j)),  theta = 2 pi u_(j+8),  out_j = r cos theta,  out_(j+8) = r sin theta;
 * when 16 does not divide n, 16 fresh uniforms replace and transform the last 16 places. randn of n < 16: pairs of doubles
 * u = (next << 32 | next) mod 2^53 2^-53, r = sqrt(-2 ln(1 - u_2)), theta = 2 pi u_1: r cos theta, and r sin theta kept for the
 * next value, also across calls.
 */
#include "lib/math/math.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

/* ---- xoshiro256** ---- */

static uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, int k)
{
	return x << k | x >> (64 - k);
}

void qd_random_init(struct qd_random *random, uint64_t seed, uint64_t stream)
{
	/* The stream is mixed before it meets the seed: seed 1, stream 0 and seed 0, stream 1 have nothing in common. */
	uint64_t mixed = splitmix64(&stream), state = seed ^ mixed;
	*random = (struct qd_random){ 0 };
	for (int i = 0; i < 4; i++)
		random->state[i] = splitmix64(&state);
}

uint64_t qd_random_u64(struct qd_random *random)
{
	uint64_t *s = random->state, result = rotate_left(s[1] * 5, 7) * 9, shifted = s[1] << 17;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= shifted;
	s[3] = rotate_left(s[3], 45);
	return result;
}

uint64_t qd_random_below(struct qd_random *random, uint64_t n)
{
	/* The 2^64 mod n lowest values would make some remainders likelier than others. */
	uint64_t least = -n % n, value = qd_random_u64(random);
	while (value < least)
		value = qd_random_u64(random);
	return value % n;
}

double qd_random_uniform(struct qd_random *random)
{
	return (double)(qd_random_u64(random) >> 11) * 0x1p-53;
}

double qd_random_normal(struct qd_random *random)
{
	if (random->has_spare) {
		random->has_spare = false;
		return random->spare;
	}
	double radius = sqrt(-2.0 * log1p(-qd_random_uniform(random)));
	double angle = TWO_PI * qd_random_uniform(random);
	random->spare = radius * sin(angle);
	random->has_spare = true;
	return radius * cos(angle);
}

uint64_t qd_stream(enum qd_stream range, uint64_t index)
{
	return ((uint64_t)range << 48) + index;
}

void qd_random_normals(uint64_t seed, uint64_t stream, size_t n, float *out)
{
	struct qd_random random;

	qd_random_init(&random, seed, stream);
	for (size_t i = 0; i < n; i++)
		out[i] = (float)qd_random_normal(&random);
}

/* ---- MT19937 ---- */

enum { MT_N = 624, MT_M = 397, BLOCK = 16 };

void qd_mt19937_init(struct qd_mt19937 *generator, uint64_t seed)
{
	*generator = (struct qd_mt19937){ .at = MT_N };
	uint32_t *state = generator->state;
	state[0] = (uint32_t)seed;
	for (uint32_t i = 1; i < MT_N; i++)
		state[i] = 1812433253u * (state[i - 1] ^ (state[i - 1] >> 30)) + i;
}

static void next_state(uint32_t *state)
{
	for (int i = 0; i < MT_N; i++) {
		uint32_t y = (state[i] & 0x80000000u) | (state[(i + 1) % MT_N] & 0x7fffffffu);
		state[i] = state[(i + MT_M) % MT_N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
	}
}

uint32_t qd_mt19937_next(struct qd_mt19937 *generator)
{
	if (generator->at == MT_N) {
		next_state(generator->state);
		generator->at = 0;
	}
	uint32_t y = generator->state[generator->at++];
	y ^= y >> 11;
	y ^= (y << 7) & 0x9d2c5680u;
	y ^= (y << 15) & 0xefc60000u;
	return y ^ (y >> 18);
}

static void fill_uniform(struct qd_mt19937 *generator, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (float)(qd_mt19937_next(generator) & 0xffffffu) * 0x1p-24f;
}

static void transform_block(float *block)
{
	for (int j = 0; j < BLOCK / 2; j++) {
		float radius = sqrtf(-2.0f * logf(1.0f - block[j])), angle = (float)TWO_PI * block[j + BLOCK / 2];
		block[j] = radius * cosf(angle);
		block[j + BLOCK / 2] = radius * sinf(angle);
	}
}

static double uniform_double(struct qd_mt19937 *generator)
{
	uint64_t high = qd_mt19937_next(generator), low = qd_mt19937_next(generator);
	return (double)((high << 32 | low) & (((uint64_t)1 << 53) - 1)) * 0x1p-53;
}

static double normal_double(struct qd_mt19937 *generator)
{
	if (generator->has_spare) {
		generator->has_spare = false;
		return generator->spare;
	}
	double u1 = uniform_double(generator), u2 = uniform_double(generator);
	double radius = sqrt(-2.0 * log1p(-u2)), angle = TWO_PI * u1;
	generator->spare = radius * sin(angle);
	generator->has_spare = true;
	return radius * cos(angle);
}

void qd_mt19937_randn(struct qd_mt19937 *generator, size_t n, float *out)
{
	if (n < BLOCK) {
		for (size_t i = 0; i < n; i++)
			out[i] = (float)normal_double(generator);
		return;
	}
	fill_uniform(generator, n, out);
	for (size_t i = 0; i + BLOCK <= n; i += BLOCK)
		transform_block(out + i);
	if (n % BLOCK) {
		fill_uniform(generator, BLOCK, out + n - BLOCK);
		transform_block(out + n - BLOCK);
	}
}

void qd_randn_torch(uint64_t seed, size_t n, float *out)
{
	struct qd_mt19937 generator;
	qd_mt19937_init(&generator, seed);
	qd_mt19937_randn(&generator, n, out);
}
