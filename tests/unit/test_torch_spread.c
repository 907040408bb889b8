/*
 * lib/data, which samples calibration data is made of: however many are asked for, rows, adapters and timesteps are met evenly, each
 * counted here one by one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "lib/data/internal.h"

#define OK(call)                                                                                                                   \
	do {                                                                                                                       \
		if ((call) != QD_OK)                                                                                               \
			fail_msg("%s", qd_message());                                                                              \
	} while (0)

enum { MOST = 64 };
static int64_t prompts[MOST];

/* n rows of which every `each` behind one another, or every n / each-th, have one prompt. */
static struct qd_prepare_spread_rows rows_of(int64_t n, int64_t each, bool sorted)
{
	for (int64_t i = 0; i < n; i++)
		prompts[i] = sorted ? i / each : i % (n / each);
	return (struct qd_prepare_spread_rows){ n, prompts };
}

/* Every trajectory's samples lie behind each other, at steps that grow. */
static void check_form(const struct qd_prepare_spread *s, int steps)
{
	int64_t at = 0;

	for (int64_t j = 0; j < s->n_trajectories; j++) {
		const struct qd_prepare_trajectory *t = &s->trajectories[j];
		assert_int_equal(t->first, at);
		assert_true(t->n >= 1);
		for (int64_t k = 0; k < t->n; k++, at++) {
			assert_int_equal(s->row[at], t->row);
			assert_in_range(s->step[at], k == 0 ? 0 : s->step[at - 1] + 1, steps - 1);
		}
	}
	assert_int_equal(at, s->n);
}

/* Of any number of samples every row, every adapter, and every stretch of the schedule under each adapter has its share. */
static void spreads_trajectories(void **state)
{
	enum { STEPS = 50, ROWS = 12 };

	(void)state;
	for (int64_t n = 1; n <= 3 * ROWS * STEPS; n = n < 60 ? n + 1 : n * 2)
		for (size_t adapters = 0; adapters <= 5; adapters++) {
			struct qd_prepare_spread_rows rows = rows_of(ROWS, 1, true);
			struct qd_prepare_spread s;
			size_t kinds = adapters > 0 ? adapters : 1;
			int64_t of_row[ROWS] = { 0 }, of_adapter[5] = { 0 }, late[5] = { 0 }, met = 0;
			OK(qd_prepare_spread_trajectories(&s, &rows, adapters, STEPS, n, 7));
			check_form(&s, STEPS);
			for (int64_t j = 0; j < s.n_trajectories; j++) {
				const struct qd_prepare_trajectory *t = &s.trajectories[j];
				of_row[t->row] += t->n;
				of_adapter[t->adapter] += t->n;
				for (int64_t k = 0; k < t->n; k++)
					late[t->adapter] += s.step[t->first + k] >= STEPS / 2;
			}
			for (size_t i = 0; i < ROWS; i++)
				met += of_row[i] > 0;
			assert_int_equal(met, n < ROWS ? n : ROWS);
			for (size_t a = 0; a < kinds; a++) {
				assert_true(n < (int64_t)kinds || of_adapter[a] > 0);
				/* off by the stratum in the middle, of trajectories of n and of n + 1 samples */
				assert_in_range(2 * late[a] - of_adapter[a] + 2, 0, 4);
			}
			qd_prepare_spread_release(&s);
		}
}

/* All states of all trajectories, when that is what is asked for; and with every adapter once, when it goes round. */
static void takes_whole_trajectories(void **state)
{
	enum { STEPS = 4, ROWS = 6, ADAPTERS = 4 };
	struct qd_prepare_spread_rows rows = rows_of(ROWS, 1, true);
	struct qd_prepare_spread s;
	bool seen[ROWS][ADAPTERS] = { { false } };

	(void)state;
	OK(qd_prepare_spread_trajectories(&s, &rows, ADAPTERS, STEPS, ROWS * STEPS, 1));
	assert_int_equal(s.n_trajectories, ROWS);
	for (int64_t i = 0; i < s.n; i++) {
		assert_int_equal(s.step[i], i % STEPS);
		assert_int_equal(s.row[i], i / STEPS);
	}
	qd_prepare_spread_release(&s);
	OK(qd_prepare_spread_trajectories(&s, &rows, ADAPTERS, STEPS, ROWS * ADAPTERS * STEPS, 1));
	assert_int_equal(s.n_trajectories, ROWS * ADAPTERS);
	for (int64_t j = 0; j < s.n_trajectories; j++) {
		assert_false(seen[s.trajectories[j].row][s.trajectories[j].adapter]);
		seen[s.trajectories[j].row][s.trajectories[j].adapter] = true;
	}
	qd_prepare_spread_release(&s);
}

/* Fewer samples than rows: as many prompts as there can be, in whatever order the rows have them. */
static void reaches_every_prompt(void **state)
{
	(void)state;
	for (int sorted = 0; sorted < 2; sorted++)
		for (int64_t n = 1; n <= 12; n++) {
			struct qd_prepare_spread_rows rows = rows_of(12, 3, sorted);
			double timesteps[12];
			struct qd_prepare_spread s, t;
			for (int64_t i = 0; i < 12; i++)
				timesteps[i] = (double)(i * 5 % 12);
			OK(qd_prepare_spread_noised(&s, &rows, n, 3));
			OK(qd_prepare_spread_stored(&t, &rows, timesteps, n, 3));
			int64_t met[4] = { 0 }, stored[4] = { 0 };
			bool stratum[12] = { false }, part[12] = { false };
			for (int64_t i = 0; i < n; i++) {
				met[prompts[s.row[i]]]++;
				stored[prompts[t.row[i]]]++;
				assert_false(stratum[s.stratum[i]]);
				stratum[s.stratum[i]] = true;
				/* the i-th of n parts of the time */
				assert_in_range((int64_t)timesteps[t.row[i]], n == 12 ? 0 : i * 12 / n,
					n == 12 ? 11 : (i + 1) * 12 / n - 1);
				assert_true(n == 12 || !part[t.row[i]]);
				part[t.row[i]] = true;
			}
			for (int k = 0; k < 4; k++) {
				assert_in_range(met[k], n / 4, (n + 3) / 4);
				/* it takes what the part of the time has */
				assert_in_range(stored[k], n == 4 || n == 12 ? n / 4 : 0, n);
			}
			qd_prepare_spread_release(&s);
			qd_prepare_spread_release(&t);
		}
}

/* The seed decides, and nothing else. */
static void repeats(void **state)
{
	struct qd_prepare_spread_rows rows = rows_of(40, 2, true);
	struct qd_prepare_spread a, b, c;

	(void)state;
	OK(qd_prepare_spread_trajectories(&a, &rows, 3, 50, 24, 5));
	OK(qd_prepare_spread_trajectories(&b, &rows, 3, 50, 24, 5));
	OK(qd_prepare_spread_trajectories(&c, &rows, 3, 50, 24, 6));
	assert_memory_equal(a.step, b.step, 24 * sizeof(*a.step));
	assert_memory_equal(a.row, b.row, 24 * sizeof(*a.row));
	assert_memory_not_equal(a.step, c.step, 24 * sizeof(*a.step));
	qd_prepare_spread_release(&a);
	qd_prepare_spread_release(&b);
	qd_prepare_spread_release(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spreads_trajectories),
		cmocka_unit_test(takes_whole_trajectories),
		cmocka_unit_test(reaches_every_prompt),
		cmocka_unit_test(repeats),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
