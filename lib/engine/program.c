/*
 * Programs of elementwise operators. A chunk of numbers passes through all instructions while it lies in the cache: operands are
 * decoded into registers, arrays of floats as long as the chunk, operators work from register to register, results are rounded to
 * their grid or encoded. Float32 throughout; a code depends on nothing but the numbers that it is computed from, so chunks and
 * threads do not show in results.
 */
#include "lib/engine/internal.h"

#include <math.h>
#include <string.h>

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* ---- operators ---- */

struct loops {
	enum qd_op op;
	int inputs;
	enum qd_binary binary;
	enum qd_unary unary;
};
static const struct loops table[] = {
	{ QD_OP_ADD, 2, .binary = QD_BINARY_ADD },
	{ QD_OP_SUB, 2, .binary = QD_BINARY_SUB },
	{ QD_OP_MUL, 2, .binary = QD_BINARY_MUL },
	{ QD_OP_DIV, 2, .binary = QD_BINARY_DIV },
	{ QD_OP_SIGMOID, 1, .unary = QD_UNARY_SIGMOID },
	{ QD_OP_GELU, 1, .unary = QD_UNARY_GELU },
	{ QD_OP_RELU, 1, .unary = QD_UNARY_RELU },
	{ QD_OP_NEG, 1, .unary = QD_UNARY_NEG },
};

static const struct loops *find(enum qd_op op)
{
	for (size_t i = 0; i < QD_COUNT(table); i++)
		if (table[i].op == op)
			return &table[i];
	return NULL;
}

bool qd_program_has(const struct qd_graph *g, const struct qd_node *node)
{
	if (find(node->op) == NULL || g->values[node->out[0]].dtype != QD_F32)
		return false;
	return node->op != QD_OP_GELU || strcmp(qd_node_string(node, "approximate", "none"), "none") == 0;
}

/* ---- operands ---- */

/* n elements with a distance of `stride` in the buffer. */
static void load_strided(const struct qd_numbers *x, size_t at, int64_t stride, size_t n, float *to)
{
	if (stride == 1) {
		qd_numbers_load(x, at, n, to);
	} else if (stride == 0) {
		qd_numbers_load(x, at, 1, to);
		for (size_t i = 1; i < n; i++)
			to[i] = to[0];
	} else {
		for (size_t i = 0; i < n; i++)
			qd_numbers_load(x, (size_t)((int64_t)at + (int64_t)i * stride), 1, to + i);
	}
}

void qd_walk_load(const struct qd_walk *w, const struct qd_numbers *x, size_t first, size_t n, float *to)
{
	size_t inner = (size_t)w->dim[w->rank - 1];

	while (n > 0) {
		size_t column = first % inner, count = smaller(inner - column, n);
		int64_t at, lead;
		qd_walk_run(w, first / inner, &at, &lead);
		load_strided(x, (size_t)(at + (int64_t)column * w->stride[w->rank - 1]), w->stride[w->rank - 1], count, to);
		first += count;
		to += count;
		n -= count;
	}
}

/* ---- a run ---- */

static void operate(const struct qd_instruction *i, size_t n, const float *a, const float *b, float *to)
{
	const struct loops *loops = find(i->op);

	if (loops->inputs == 1)
		qd_unary_f32(loops->unary, n, a, to);
	else if (i->b >= 0)
		qd_binary_f32(loops->binary, n, a, b, to);
	else
		qd_binary_number_f32(loops->binary, n, a, i->number, i->swapped, to);
}

bool qd_program_slope(enum qd_op op, size_t n, const float *x, float *g)
{
	const struct loops *loops = find(op);

	if (loops == NULL || loops->inputs != 1)
		return false;
	qd_unary_slope_f32(loops->unary, n, x, g);
	return true;
}

void qd_program_run(
	const struct qd_program *program, const struct qd_buffer *buffers, size_t first, size_t n, float *x, float *registers)
{
#define REGISTER(r) ((r) == 0 ? x : registers + ((size_t)(r)-1) * QD_PROGRAM_CHUNK)
	for (size_t at = 0; at < n; at += QD_PROGRAM_CHUNK, x += QD_PROGRAM_CHUNK) {
		size_t part = smaller(QD_PROGRAM_CHUNK, n - at);
		for (size_t k = 0; k < program->n; k++) {
			const struct qd_instruction *i = &program->code[k];
			switch (i->code) {
			case QD_CODE_LOAD:
				qd_walk_load(&i->walk, &buffers[i->buffer].numbers, first + at, part, REGISTER(i->to));
				break;
			case QD_CODE_OP:
				operate(i, part, REGISTER(i->a), i->b >= 0 ? REGISTER(i->b) : NULL, REGISTER(i->to));
				break;
			case QD_CODE_ROUND:
				qd_numbers_round(&i->grid, part, REGISTER(i->to), REGISTER(i->to));
				break;
			case QD_CODE_STORE:
				qd_numbers_store(&buffers[i->buffer].numbers, first + at, part, REGISTER(i->a));
				break;
			}
		}
	}
#undef REGISTER
}
