#include "tests/unit/product_help.h"

static int64_t out_size(int64_t in, int64_t before, int64_t after, int64_t kernel, int64_t dilation, int64_t stride)
{
	return (in + before + after - (kernel - 1) * dilation - 1) / stride + 1;
}

static int64_t of(struct qd_random *random, int64_t n)
{
	return (int64_t)qd_random_below(random, (uint64_t)n);
}

struct qd_product_spec random_convolution(struct qd_random *random, int round)
{
	struct qd_product_spec s = { .n = 1 + of(random, 2),
		.height = 5 + of(random, 20),
		.width = 5 + of(random, 20),
		.in = 1 + of(random, 40),
		.out = round % 3 ? 1 + of(random, 40) : 32,
		.kernel_h = 1 + of(random, 3),
		.kernel_w = 1 + of(random, 3),
		.stride_h = 1 + of(random, 2),
		.stride_w = 1 + of(random, 2),
		.dilation_h = 1 + of(random, 2),
		.dilation_w = 1 + of(random, 2),
		.top = of(random, 3),
		.left = of(random, 3),
		.bottom = of(random, 3),
		.right = of(random, 3) };

	s.out_height = out_size(s.height, s.top, s.bottom, s.kernel_h, s.dilation_h, s.stride_h);
	s.out_width = out_size(s.width, s.left, s.right, s.kernel_w, s.dilation_w, s.stride_w);
	return s;
}

struct qd_product_spec square_convolution(int64_t n, int64_t height, int64_t width, int64_t in, int64_t out)
{
	return (struct qd_product_spec){ .n = n,
		.height = height,
		.width = width,
		.in = in,
		.out = out,
		.kernel_h = 3,
		.kernel_w = 3,
		.out_height = height,
		.out_width = width,
		.stride_h = 1,
		.stride_w = 1,
		.dilation_h = 1,
		.dilation_w = 1,
		.top = 1,
		.left = 1,
		.bottom = 1,
		.right = 1 };
}
