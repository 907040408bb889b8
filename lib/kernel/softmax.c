/*
 * Softmax of one row: largest element, exponentials, their sum, quotients; the sum lane by lane, then in halves.
 */
#include "lib/kernel/vector.h"

QD_VECTOR void qd_softmax_row_f32(size_t n, float *x)
{
	size_t whole = n / QD_LANES * QD_LANES, rest = n - whole;
	float most = x[0], total;
	vec sum = { 0 };

	for (size_t i = 1; i < n; i++)
		most = x[i] > most ? x[i] : most;
	for (size_t i = 0; i < whole; i += QD_LANES) {
		vec e = exponential((load(x + i) - most) * 1.44269504089f);
		store(x + i, e);
		sum += e;
	}
	if (rest > 0) {
		vec e = exponential((load_part(x + whole, rest) - most) * 1.44269504089f);
		store_part(x + whole, e, rest);
		for (size_t i = rest; i < QD_LANES; i++)
			e[i] = 0;
		sum += e;
	}
	total = sum_of(sum);
	for (size_t i = 0; i < n; i++)
		x[i] /= total;
}
