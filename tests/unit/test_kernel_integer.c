/*
 * Products of codes against sums of 64-bit integers: equal bit for bit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/product_help.h"
#include "tests/unit/random_help.h"
#include "tests/unit/scratch.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *bytes(size_t n)
{
	void *memory = aligned_alloc(64, (n + 64) / 64 * 64);

	assert_non_null(memory);
	return memory;
}

/* What one product is made of. */
struct product {
	struct qd_integer_spec spec;
	struct qd_numbers x;
	int16_t *w;
	float *w_scale, *bias;
	size_t rows, terms;
};

static size_t x_elements(const struct qd_product_spec *s)
{
	return (size_t)(s->n * s->height * s->width * s->in);
}

/* Codes anywhere in their range, now and then only at its ends: what sums are largest for. */
static struct product make(struct qd_integer_spec spec)
{
	static const float zeros[] = { 0, 32768, 65535, 1234 };
	const struct qd_product_spec *s = &spec.shape;
	struct product p = { .spec = spec,
		.rows = (size_t)(s->n * s->out_height * s->out_width),
		.terms = (size_t)(s->in * s->kernel_h * s->kernel_w) };
	size_t n_x = x_elements(s), n_w = p.terms * (size_t)s->out;
	int64_t ends = below(4), high = (int64_t)1 << (spec.w_bits - 1);
	uint8_t *at = bytes(2 * n_x + 100);

	p.x = (struct qd_numbers){ .form = spec.x,
		.at = at,
		.plane = n_x + (size_t)below(100),
		.scale = 0.0123f,
		.zero = spec.x == QD_FORM_U16 ? zeros[below(4)] : (float)below(256),
		.high = spec.x == QD_FORM_U16 ? 65535 : 255 };
	for (size_t i = 0; i < 2 * n_x + 100; i++)
		at[i] = (uint8_t)(ends == 0 ? 255 : ends == 1 ? below(2) * 255 : below(256));
	p.w = bytes(n_w * sizeof(*p.w));
	for (size_t i = 0; i < n_w; i++)
		p.w[i] = (int16_t)(ends == 0   ? -high
				   : ends == 1 ? below(2) * (2 * high - 1) - high
				   : ends == 2 ? high - 1 - below(100) * below(2)
					       : below(2 * high) - high);
	p.w_scale = bytes((size_t)s->out * sizeof(float));
	p.bias = below(2) ? bytes((size_t)s->out * sizeof(float)) : NULL;
	for (int64_t i = 0; i < s->out; i++) {
		p.w_scale[i] = 0.001f + (float)qd_random_uniform(&random_state);
		if (p.bias != NULL)
			p.bias[i] = (float)qd_random_normal(&random_state) * 1e5f;
	}
	return p;
}

static void drop(struct product *p)
{
	free(p->x.at);
	free(p->w);
	free(p->w_scale);
	free(p->bias);
}

/* Codes less their zero point. */
static int32_t *numbers(const struct product *p)
{
	size_t n = x_elements(&p->spec.shape);
	int32_t *x = bytes(n * sizeof(*x));
	const uint8_t *at = p->x.at;

	for (size_t i = 0; i < n; i++)
		x[i] = (p->x.form == QD_FORM_U16 ? 256 * at[i] + at[p->x.plane + i] : at[i]) - (int32_t)p->x.zero;
	return x;
}

static int64_t sum_at(const struct product *p, const int32_t *x, const int64_t at[4])
{
	const struct qd_product_spec *s = &p->spec.shape;
	int64_t sum = 0;

	for (int64_t i = 0; i < s->kernel_h; i++)
		for (int64_t j = 0; j < s->kernel_w; j++) {
			int64_t h = at[1] * s->stride_h + i * s->dilation_h - s->top,
				v = at[2] * s->stride_w + j * s->dilation_w - s->left;
			if (h < 0 || h >= s->height || v < 0 || v >= s->width)
				continue;
			const int32_t *pixel = x + ((at[0] * s->height + h) * s->width + v) * s->in;
			const int16_t *w = p->w + (at[3] * s->in * s->kernel_h + i) * s->kernel_w + j;
			for (int64_t c = 0; c < s->in; c++)
				sum += (int64_t)pixel[c] * w[c * s->kernel_h * s->kernel_w];
		}
	return sum;
}

static float *expected(const struct product *p)
{
	const struct qd_product_spec *s = &p->spec.shape;
	float *y = bytes(p->rows * (size_t)s->out * sizeof(*y));
	int32_t *x = numbers(p);
	size_t i = 0;

	for (int64_t n = 0; n < s->n; n++)
		for (int64_t h = 0; h < s->out_height; h++)
			for (int64_t v = 0; v < s->out_width; v++)
				for (int64_t o = 0; o < s->out; o++, i++) {
					float scale = p->x.scale * p->w_scale[o];
					y[i] = (float)sum_at(p, x, (int64_t[]){ n, h, v, o }) * scale;
					if (p->bias != NULL)
						y[i] += p->bias[o];
				}
	free(x);
	return y;
}

/* Keeps rows, counts them, and writes over what it was given. */
struct kept {
	size_t width;
	float *y;
	unsigned char *times;
};

static void keep(void *context, size_t first, size_t n, float *rows)
{
	struct kept *kept = context;

	memcpy(kept->y + first * kept->width, rows, n * kept->width * sizeof(*rows));
	for (size_t i = first; i < first + n; i++)
		kept->times[i]++;
	memset(rows, 0xff, n * kept->width * sizeof(*rows));
}

/* Runs it in so many threads, in exactly the scratch that it asks for (the sanitizer watches the end), and compares. */
static void check_run(struct qd_integer_product *product, const struct product *p, const float *want, int threads)
{
	size_t width = (size_t)p->spec.shape.out, scratch_bytes = qd_integer_product_scratch_bytes(product);
	struct kept kept = { width, bytes(p->rows * width * sizeof(float)), calloc(p->rows, 1) };
	void *scratch = NULL;

	assert_non_null(kept.times);
	assert_int_equal(posix_memalign(&scratch, 64, scratch_bytes), 0);
	omp_set_num_threads(threads);
	OK(qd_integer_product_run(product, &p->x, p->w_scale, p->bias, keep, &kept, scratch));
	assert_int_equal(omp_get_max_threads(), threads);
	for (size_t i = 0; i < p->rows; i++)
		assert_int_equal(kept.times[i], 1);
	for (size_t i = 0; i < p->rows * width; i++)
		if (memcmp(&kept.y[i], &want[i], sizeof(float)) != 0)
			fail_msg("row %zu column %zu: %.9g, needs %.9g (%zu rows, %zu terms, %zu columns, form %d, %d bits, zero "
				 "%g)",
				i / width, i % width, (double)kept.y[i], (double)want[i], p->rows, p->terms, width, (int)p->spec.x,
				p->spec.w_bits, (double)p->x.zero);
	free(kept.y);
	free(kept.times);
	free(scratch);
}

/* Made for one thread, two and three, run in one and in as many. */
static void check(const struct product *p)
{
	float *want = expected(p);

	for (int threads = 1; threads <= 3; threads++) {
		struct qd_integer_product *product;

		omp_set_num_threads(threads);
		OK(qd_integer_product_new(&product, &p->spec));
		OK(qd_integer_product_pack(product, p->w));
		check_run(product, p, want, 1);
		check_run(product, p, want, threads);
		assert_true(qd_integer_product_weight_bytes(product) >=
			    p->terms * (size_t)p->spec.shape.out * (p->spec.w_bits > 8 ? 2 : 1));
		qd_integer_product_free(product);
	}
	free(want);
}

static const int widths[] = { 8, 16, 4, 12 };

static void run_linear(int round, int64_t rows, int64_t in, int64_t out)
{
	struct product p = make((struct qd_integer_spec){
		qd_linear_spec(rows, in, out), round % 2 ? QD_FORM_U8 : QD_FORM_U16, widths[round / 2 % 4] });

	check(&p);
	drop(&p);
}

static void test_linear_layers(void **state)
{
	(void)state;
	for (int round = 0; round < 48; round++)
		run_linear(round, round % 5 ? 1 + below(70) : 1, 1 + below(150), round % 3 ? 1 + below(90) : 64);
}

/* So much work that threads share it: many rows, and few with many columns. */
static void test_large_linear_layers(void **state)
{
	(void)state;
	for (int round = 0; round < 4; round++) {
		run_linear(round, 400 + below(50), 250 + below(10), 170 + below(20));
		run_linear(round, 40 + below(20), 800 + below(20), 530 + below(30));
	}
}

/* Few terms, or few columns, as the products of adapters have. */
static void test_low_ranks(void **state)
{
	(void)state;
	for (int round = 0; round < 16; round++) {
		run_linear(round, 1 + below(700), 1 + below(32), 200 + below(200));
		run_linear(round, 1 + below(700), 200 + below(200), 1 + below(32));
	}
}

static void run_convolution(int round, struct qd_product_spec s)
{
	struct product p = make((struct qd_integer_spec){ s, round % 2 ? QD_FORM_U8 : QD_FORM_U16, widths[round / 2 % 4] });

	check(&p);
	drop(&p);
}

static void test_convolutions(void **state)
{
	(void)state;
	for (int round = 0; round < 64; round++)
		run_convolution(round, random_convolution(&random_state, round));
}

/* Many pixels with few channels, and the other way round. */
static void test_large_convolutions(void **state)
{
	(void)state;
	for (int round = 0; round < 4; round++) {
		run_convolution(round, square_convolution(2, 17, 19, 48, 50));
		run_convolution(round, square_convolution(2, 4, 5, 160, 200));
	}
}

/* Codes at both ends make the largest sums, of as many terms as there may be; one more is refused. */
static void test_long_sums(void **state)
{
	(void)state;
	struct qd_integer_product *product;
	struct qd_integer_spec spec = { qd_linear_spec(3, 65793, 5), QD_FORM_U16, 8 };

	for (int round = 0; round < 4; round++) {
		struct product p = make(spec);
		check(&p);
		drop(&p);
	}
	spec.shape.in++;
	assert_int_equal(qd_integer_product_new(&product, &spec), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "sums of 65794 products of codes are too long, 65793 are possible");
	assert_null(product);
}

/* Weights take the place of others. */
static void test_packing_again(void **state)
{
	(void)state;
	struct product p = make((struct qd_integer_spec){ qd_linear_spec(40, 50, 60), QD_FORM_U16, 16 });
	struct qd_integer_product *product;

	OK(qd_integer_product_new(&product, &p.spec));
	for (int round = 0; round < 4; round++) {
		for (size_t i = 0; i < p.terms * 60; i++)
			p.w[i] = (int16_t)(round % 2 ? 32767 - below(2) * 65535 : below(65000) - 32500);
		float *want = expected(&p);
		OK(qd_integer_product_pack(product, p.w));
		check_run(product, &p, want, 2);
		free(want);
	}
	qd_integer_product_free(product);
	drop(&p);
}

/* The same sums on processors whose instructions cut off sums of bytes, or lack other things: everything above once more there. */
static void test_other_processors(void **state)
{
	(void)state;
	static const char *const sets[] = { "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2_VNNI", "AVX2" };

	if (getenv("DNNL_MAX_CPU_ISA") != NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(sets); i++) {
		const char *log = scratch_path("log");
		int status;
		pid_t child = fork();

		assert_true(child >= 0);
		if (child == 0) {
			setenv("DNNL_MAX_CPU_ISA", sets[i], 1);
			if (freopen(log, "w", stdout) != NULL && dup2(STDOUT_FILENO, STDERR_FILENO) >= 0)
				execl("/proc/self/exe", "test_kernel_integer", (char *)NULL);
			_exit(127);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		if (status != 0) {
			char line[1024];
			FILE *file = fopen(log, "r");
			while (file != NULL && fgets(line, sizeof(line), file) != NULL)
				print_error("%s: %s", sets[i], line);
			if (file != NULL)
				fclose(file);
			fail_msg("with DNNL_MAX_CPU_ISA=%s the status is %d", sets[i], status);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_linear_layers),
		cmocka_unit_test(test_large_linear_layers),
		cmocka_unit_test(test_low_ranks),
		cmocka_unit_test(test_convolutions),
		cmocka_unit_test(test_large_convolutions),
		cmocka_unit_test(test_long_sums),
		cmocka_unit_test(test_packing_again),
		cmocka_unit_test(test_other_processors),
	};
	return cmocka_run_group_tests(tests, start_random, NULL);
}
