/*
 * Resizing images. The filter is Lanczos' (Duchon 1979) with three lobes, widened by the reduction so that nothing aliases:
 *
 *   out(i) = sum_k w((k + 1/2 - c) / s) in(k) / sum_k w(...)     c = (i + 1/2) n_in / n_out,  s = max(n_in / n_out, 1)
 *   w(x)   = sinc(x) sinc(x / 3) for |x| < 3, else 0             sinc(x) = sin(pi x) / (pi x)
 *
 * along rows, then along columns; beyond the border there is nothing. Nearest takes in(floor(i n_in / n_out)), as PyTorch's
 * interpolate does for masks.
 */
#include "lib/math/math.h"

#include <math.h>
#include <stdlib.h>

static double sinc(double x)
{
	double t = acos(-1.0) * x;
	return fabs(x) < 1e-9 ? 1 : sin(t) / t;
}

static double lanczos(double x)
{
	return fabs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
}

/* One axis: `n_in` numbers `stride_in` apart become `n_out`. */
struct axis {
	int n_in, n_out;
	size_t stride_in, stride_out;
};

/* Applies the filter along an axis of `lines` lines, `line_in` and `line_out` numbers from one to the next. */
static void along(const struct axis *a, size_t lines, size_t line_in, size_t line_out, const float *in, float *out)
{
	double ratio = (double)a->n_in / a->n_out, scale = fmax(ratio, 1), reach = 3 * scale;

	for (int i = 0; i < a->n_out; i++) {
		double centre = (i + 0.5) * ratio, total = 0;
		int first = (int)fmax(floor(centre - reach), 0), last = (int)fmin(ceil(centre + reach), a->n_in);
		for (int k = first; k < last; k++)
			total += lanczos((k + 0.5 - centre) / scale);
		for (size_t line = 0; line < lines; line++)
			out[line * line_out + (size_t)i * a->stride_out] = 0;
		for (int k = first; k < last; k++) {
			float weight = (float)(lanczos((k + 0.5 - centre) / scale) / total);
			for (size_t line = 0; line < lines; line++)
				out[line * line_out + (size_t)i * a->stride_out] +=
					weight * in[line * line_in + (size_t)k * a->stride_in];
		}
	}
}

enum qd_status qd_resize_lanczos(const float *in, int planes, int height, int width, int out_height, int out_width, float *out)
{
	size_t in_plane = (size_t)height * (size_t)width, middle = (size_t)height * (size_t)out_width,
	       out_plane = (size_t)out_height * (size_t)out_width;
	struct axis rows = { width, out_width, 1, 1 }, columns = { height, out_height, (size_t)out_width, (size_t)out_width };
	float *room = malloc(middle * sizeof(*room));

	if (room == NULL)
		return qd_fail(QD_ENOMEM, "out of memory (image of %d x %d pixels)", width, height);
	for (size_t p = 0; p < (size_t)planes; p++) {
		along(&rows, (size_t)height, (size_t)width, (size_t)out_width, in + p * in_plane, room);
		along(&columns, (size_t)out_width, 1, 1, room, out + p * out_plane);
	}
	free(room);
	return QD_OK;
}

void qd_resize_nearest(const float *in, int planes, int height, int width, int out_height, int out_width, float *out)
{
	for (int p = 0; p < planes; p++)
		for (int y = 0; y < out_height; y++)
			for (int x = 0; x < out_width; x++) {
				int64_t from_y = (int64_t)y * height / out_height, from_x = (int64_t)x * width / out_width;
				*out++ = in[((size_t)p * (size_t)height + (size_t)from_y) * (size_t)width + (size_t)from_x];
			}
}
