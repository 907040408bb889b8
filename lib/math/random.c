/*
 * Random numbers. xoshiro256**: result = rotl(s1 * 5, 7) * 9; the state is linear over GF(2). splitmix64 fills it from seed and
 * stream.
 */
#include "lib/math/math.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

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
