/*
 * oneDNN, versions 2.x and 3.x: the one file that knows the library and which of the two it is. 2.x describes an operation in a
 * structure of its own before a primitive descriptor is made of it; 3.x makes the descriptor at once. Memory descriptors are
 * structures in 2.x and handles in 3.x.
 *
 * A linear layer is a matrix product [rows, in] x [in, out], a convolution is channels-last ("nhwc") on both sides, so that neither
 * reorders activations; only weights are in an order that the library chooses. Scratch memory is the caller's.
 */
#include "lib/kernel/dnnl.h"

#include <dnnl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define VERSION_3 (DNNL_VERSION_MAJOR >= 3)

/* ---- memory descriptors ---- */

#if VERSION_3
typedef dnnl_memory_desc_t layout;
typedef const_dnnl_memory_desc_t layout_ref;
#define REF(l) (l)
#else
typedef dnnl_memory_desc_t layout;
typedef const dnnl_memory_desc_t *layout_ref;
#define REF(l) (&(l))
#endif

static dnnl_status_t layout_make(layout *l, int rank, const dnnl_dims_t dims, dnnl_data_type_t type, dnnl_format_tag_t tag)
{
#if VERSION_3
	return dnnl_memory_desc_create_with_tag(l, rank, dims, type, tag);
#else
	return dnnl_memory_desc_init_by_tag(l, rank, dims, type, tag);
#endif
}

static dnnl_status_t layout_copy(layout *l, layout_ref from)
{
#if VERSION_3
	return dnnl_memory_desc_clone(l, from);
#else
	*l = *from;
	return dnnl_success;
#endif
}

static void layout_release(layout *l)
{
#if VERSION_3
	if (*l)
		dnnl_memory_desc_destroy(*l);
#endif
	memset(l, 0, sizeof(*l));
}

/* ---- the library ---- */

static dnnl_engine_t engine;
static dnnl_stream_t stream;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Made once and kept: the library shares compiled kernels between users of one engine. */
static void start(void)
{
	if (dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success)
		return;
	if (dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) != dnnl_success)
		stream = NULL;
}

static enum qd_status ready(void)
{
	pthread_once(&once, start);
	return stream != NULL ? QD_OK : qd_fail(QD_EUNSUPPORTED, "oneDNN does not start");
}

static enum qd_status checked(dnnl_status_t status, const char *what)
{
	if (status == dnnl_success)
		return QD_OK;
	if (status == dnnl_out_of_memory)
		return qd_fail(QD_ENOMEM, "out of memory for a %s", what);
	return qd_fail(QD_EUNSUPPORTED, "oneDNN cannot make this %s (status %d)", what, (int)status);
}
#define DNNL_TRY(st, call, what) QD_TRY(st, checked(call, what))

/* An instruction set contains the bits of those that it extends. */
static bool has(dnnl_cpu_isa_t set)
{
	return ((int)dnnl_get_effective_cpu_isa() & (int)set) == (int)set;
}

bool qd_dnnl_has_bfloat16(void)
{
	return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

bool qd_dnnl_has_matrix_units(void)
{
	return has(dnnl_cpu_isa_avx512_core_amx);
}

bool qd_dnnl_sums_bytes(void)
{
	return has(dnnl_cpu_isa_avx512_core_vnni) || has(dnnl_cpu_isa_avx2_vnni);
}

/* ---- one operation ---- */

enum { X, W, BIAS, OTHER, Y, SCRATCH, OPERANDS };

struct qd_dnnl {
	dnnl_primitive_t primitive;
	dnnl_memory_t memory[OPERANDS];
	dnnl_exec_arg_t args[OPERANDS];
	int n_args;
	layout plain, packed; /* of the weights */
	size_t weight_bytes, scratch_bytes;
};

/* What describes an operation while it is made. */
struct making {
	const struct qd_product_spec *spec;
	const struct qd_dnnl_options *options;
	layout x, w, bias, y;
	dnnl_primitive_attr_t attr;
	dnnl_primitive_desc_t desc;
};

static void making_release(struct making *m)
{
	layout_release(&m->x);
	layout_release(&m->w);
	layout_release(&m->bias);
	layout_release(&m->y);
	if (m->attr != NULL)
		dnnl_primitive_attr_destroy(m->attr);
	if (m->desc != NULL)
		dnnl_primitive_desc_destroy(m->desc);
}

bool qd_product_is_linear(const struct qd_product_spec *s)
{
	return s->kernel_h == 1 && s->kernel_w == 1 && s->stride_h == 1 && s->stride_w == 1 && s->height == s->out_height &&
	       s->width == s->out_width && !s->top && !s->left && !s->bottom && !s->right;
}

/* Dimensions of the operands, and in which order they lie in memory. */
struct form {
	int rank, bias_rank;
	dnnl_dims_t x, w, y, bias;
	dnnl_format_tag_t image, plain, vector;
};

/* A matrix product; the plain weights [out, in] are seen as [in, out] in the other order. */
static struct form linear_form(const struct qd_product_spec *s)
{
	const int64_t rows = s->n * s->height * s->width;

	return (struct form){ .rank = 2,
		.bias_rank = 2,
		.x = { rows, s->in },
		.w = { s->in, s->out },
		.y = { rows, s->out },
		.bias = { 1, s->out },
		.image = dnnl_ab,
		.plain = dnnl_ba,
		.vector = dnnl_ab };
}

static struct form convolution_form(const struct qd_product_spec *s)
{
	return (struct form){ .rank = 4,
		.bias_rank = 1,
		.x = { s->n, s->in, s->height, s->width },
		.w = { s->out, s->in, s->kernel_h, s->kernel_w },
		.y = { s->n, s->out, s->out_height, s->out_width },
		.bias = { s->out },
		.image = dnnl_nhwc,
		.plain = dnnl_oihw,
		.vector = dnnl_a };
}

static enum qd_status make_layouts(struct qd_dnnl *d, struct making *m)
{
	const struct form f = qd_product_is_linear(m->spec) ? linear_form(m->spec) : convolution_form(m->spec);
	bool codes = m->options->codes;
	dnnl_data_type_t type = m->options->bfloat16 ? dnnl_bf16 : codes ? dnnl_s8 : dnnl_f32;
	enum qd_status st;

	DNNL_TRY(st, layout_make(&m->x, f.rank, f.x, codes ? dnnl_u8 : type, f.image), "layout");
	DNNL_TRY(st, layout_make(&m->y, f.rank, f.y, codes ? dnnl_s32 : dnnl_f32, f.image), "layout");
	DNNL_TRY(st, layout_make(&m->bias, f.bias_rank, f.bias, dnnl_f32, f.vector), "layout");
	DNNL_TRY(st, layout_make(&d->plain, f.rank, f.w, type, f.plain), "layout");
	if (m->options->like != NULL)
		DNNL_TRY(st, layout_copy(&m->w, REF(m->options->like->packed)), "layout");
	else
		DNNL_TRY(st, layout_make(&m->w, f.rank, f.w, type, dnnl_format_tag_any), "layout");
out:
	return st;
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
#if VERSION_3
	return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
#else
	return dnnl_post_ops_append_sum(ops, 1.0f);
#endif
}

/* Scratch memory from the caller; what is done to each sum before it is stored. */
static enum qd_status make_attributes(struct making *m)
{
	dnnl_post_ops_t ops = NULL;
	enum qd_status st;

	DNNL_TRY(st, dnnl_primitive_attr_create(&m->attr), "product");
	DNNL_TRY(st, dnnl_primitive_attr_set_scratchpad_mode(m->attr, dnnl_scratchpad_mode_user), "product");
	DNNL_TRY(st, dnnl_post_ops_create(&ops), "product");
	if (m->options->sum)
		DNNL_TRY(st, append_sum(ops), "product");
	if (m->options->add)
		DNNL_TRY(st, dnnl_post_ops_append_binary(ops, dnnl_binary_add, REF(m->y)), "product");
	DNNL_TRY(st, dnnl_primitive_attr_set_post_ops(m->attr, ops), "product");
out:
	if (ops != NULL)
		dnnl_post_ops_destroy(ops);
	return st;
}

static dnnl_status_t describe_linear(struct making *m)
{
	layout_ref bias = m->options->bias ? REF(m->bias) : NULL;
#if VERSION_3
	return dnnl_matmul_primitive_desc_create(&m->desc, engine, m->x, m->w, bias, m->y, m->attr);
#else
	dnnl_matmul_desc_t operation;
	dnnl_status_t status = dnnl_matmul_desc_init(&operation, &m->x, &m->w, bias, &m->y);
	return status ? status : dnnl_primitive_desc_create(&m->desc, &operation, m->attr, engine, NULL);
#endif
}

static dnnl_status_t describe_convolution(struct making *m)
{
	const struct qd_product_spec *s = m->spec;
	/* The library counts the pixels left out between taps, ONNX the distance. */
	const dnnl_dims_t strides = { s->stride_h, s->stride_w }, gaps = { s->dilation_h - 1, s->dilation_w - 1 },
			  before = { s->top, s->left }, after = { s->bottom, s->right };
	layout_ref bias = m->options->bias ? REF(m->bias) : NULL;
#if VERSION_3
	return dnnl_convolution_forward_primitive_desc_create(&m->desc, engine, dnnl_forward_inference, dnnl_convolution_direct,
		m->x, m->w, bias, m->y, strides, gaps, before, after, m->attr);
#else
	dnnl_convolution_desc_t operation;
	dnnl_status_t status = dnnl_dilated_convolution_forward_desc_init(&operation, dnnl_forward_inference,
		dnnl_convolution_direct, &m->x, &m->w, bias, &m->y, strides, gaps, before, after);
	return status ? status : dnnl_primitive_desc_create(&m->desc, &operation, m->attr, engine, NULL);
#endif
}

static enum qd_status add_operand(struct qd_dnnl *d, int which, int name, layout_ref l)
{
	enum qd_status st;

	DNNL_TRY(st, dnnl_memory_create(&d->memory[which], l, engine, DNNL_MEMORY_NONE), "product");
	d->args[d->n_args++] = (dnnl_exec_arg_t){ name, d->memory[which] };
out:
	return st;
}

static enum qd_status add_operands(struct qd_dnnl *d, struct making *m)
{
	layout_ref scratch = dnnl_primitive_desc_query_md(m->desc, dnnl_query_scratchpad_md, 0),
		   packed = dnnl_primitive_desc_query_md(m->desc, dnnl_query_weights_md, 0);
	enum qd_status st;

	DNNL_TRY(st, layout_copy(&d->packed, packed), "layout");
	d->weight_bytes = dnnl_memory_desc_get_size(packed);
	d->scratch_bytes = dnnl_memory_desc_get_size(scratch);
	QD_TRY(st, add_operand(d, X, DNNL_ARG_SRC, REF(m->x)));
	QD_TRY(st, add_operand(d, W, DNNL_ARG_WEIGHTS, packed));
	QD_TRY(st, add_operand(d, Y, DNNL_ARG_DST, REF(m->y)));
	QD_TRY(st, add_operand(d, SCRATCH, DNNL_ARG_SCRATCHPAD, scratch));
	if (m->options->bias)
		QD_TRY(st, add_operand(d, BIAS, DNNL_ARG_BIAS, REF(m->bias)));
	if (m->options->add)
		QD_TRY(st, add_operand(d, OTHER, DNNL_ARG_ATTR_MULTIPLE_POST_OP(m->options->sum) | DNNL_ARG_SRC_1, REF(m->y)));
out:
	return st;
}

enum qd_status qd_dnnl_new(struct qd_dnnl **out, const struct qd_product_spec *spec, const struct qd_dnnl_options *options)
{
	struct qd_dnnl *d = calloc(1, sizeof(*d));
	struct making m = { .spec = spec, .options = options };
	bool linear = qd_product_is_linear(spec);
	int threads = qd_threads();
	enum qd_status st;

	*out = NULL;
	if (d == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a product");
	/* The library divides the work among the threads that there are while it is described. */
	if (options->codes)
		qd_use_threads(1);
	QD_TRY(st, ready());
	QD_TRY(st, make_layouts(d, &m));
	QD_TRY(st, make_attributes(&m));
	DNNL_TRY(st, linear ? describe_linear(&m) : describe_convolution(&m), linear ? "linear layer" : "convolution");
	QD_TRY(st, add_operands(d, &m));
	DNNL_TRY(st, dnnl_primitive_create(&d->primitive, m.desc), "product");
	*out = d;
	d = NULL;
out:
	qd_use_threads(threads);
	making_release(&m);
	qd_dnnl_free(d);
	return st;
}

void qd_dnnl_free(struct qd_dnnl *d)
{
	if (d == NULL)
		return;
	for (size_t i = 0; i < OPERANDS; i++)
		if (d->memory[i] != NULL)
			dnnl_memory_destroy(d->memory[i]);
	if (d->primitive != NULL)
		dnnl_primitive_destroy(d->primitive);
	layout_release(&d->plain);
	layout_release(&d->packed);
	free(d);
}

size_t qd_dnnl_weight_bytes(const struct qd_dnnl *d)
{
	return d->weight_bytes;
}

size_t qd_dnnl_scratch_bytes(const struct qd_dnnl *d)
{
	return d->scratch_bytes;
}

enum qd_status qd_dnnl_pack(struct qd_dnnl *d, const void *w, void *packed)
{
	dnnl_memory_t from = NULL, to = NULL;
	dnnl_primitive_desc_t desc = NULL;
	dnnl_primitive_t reorder = NULL;
	enum qd_status st;

	DNNL_TRY(st, dnnl_memory_create(&from, REF(d->plain), engine, (void *)(uintptr_t)w), "reordering");
	DNNL_TRY(st, dnnl_memory_create(&to, REF(d->packed), engine, packed), "reordering");
	DNNL_TRY(st, dnnl_reorder_primitive_desc_create(&desc, REF(d->plain), engine, REF(d->packed), engine, NULL), "reordering");
	DNNL_TRY(st, dnnl_primitive_create(&reorder, desc), "reordering");
	const dnnl_exec_arg_t args[] = { { DNNL_ARG_FROM, from }, { DNNL_ARG_TO, to } };
	DNNL_TRY(st, dnnl_primitive_execute(reorder, stream, QD_COUNT(args), args), "reordering");
	DNNL_TRY(st, dnnl_stream_wait(stream), "reordering");
out:
	if (reorder != NULL)
		dnnl_primitive_destroy(reorder);
	if (desc != NULL)
		dnnl_primitive_desc_destroy(desc);
	if (from != NULL)
		dnnl_memory_destroy(from);
	if (to != NULL)
		dnnl_memory_destroy(to);
	return st;
}

enum qd_status qd_dnnl_run(
	struct qd_dnnl *d, const void *x, const void *packed, const float *bias, const float *other, float *y, void *scratch)
{
	const void *const handles[OPERANDS] = { x, packed, bias, other, y, scratch };
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < OPERANDS; i++)
		if (d->memory[i] != NULL)
			DNNL_TRY(st, dnnl_memory_set_data_handle(d->memory[i], (void *)(uintptr_t)handles[i]), "product");
	DNNL_TRY(st, dnnl_primitive_execute(d->primitive, stream, d->n_args, d->args), "product");
	DNNL_TRY(st, dnnl_stream_wait(stream), "product");
out:
	return st;
}

enum qd_status qd_dnnl_run_codes(const struct qd_dnnl *d, size_t n, const struct qd_dnnl_codes *products, void *scratch)
{
	dnnl_memory_t memory[OPERANDS] = { NULL };
	dnnl_exec_arg_t args[] = { { DNNL_ARG_SRC, NULL }, { DNNL_ARG_WEIGHTS, NULL }, { DNNL_ARG_DST, NULL },
		{ DNNL_ARG_SCRATCHPAD, NULL } };
	static const int operands[] = { X, W, Y, SCRATCH };
	enum qd_status st = QD_OK;

	/* Other threads are using the product's own ones. */
	for (size_t i = 0; i < QD_COUNT(args); i++) {
		layout_ref l;
		DNNL_TRY(st, dnnl_memory_get_memory_desc(d->memory[operands[i]], &l), "product");
		DNNL_TRY(st, dnnl_memory_create(&memory[operands[i]], l, engine, scratch), "product");
		args[i].memory = memory[operands[i]];
	}
	for (size_t i = 0; i < n; i++) {
		DNNL_TRY(st, dnnl_memory_set_data_handle(memory[X], (void *)(uintptr_t)products[i].x), "product");
		DNNL_TRY(st, dnnl_memory_set_data_handle(memory[W], (void *)(uintptr_t)products[i].packed), "product");
		DNNL_TRY(st, dnnl_memory_set_data_handle(memory[Y], products[i].y), "product");
		DNNL_TRY(st, dnnl_primitive_execute(d->primitive, stream, QD_COUNT(args), args), "product");
		DNNL_TRY(st, dnnl_stream_wait(stream), "product");
	}
out:
	for (size_t i = 0; i < OPERANDS; i++)
		if (memory[i] != NULL)
			dnnl_memory_destroy(memory[i]);
	return st;
}
