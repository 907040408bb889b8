/*
 * Low-rank branches with graph inputs in place of weights. For a layer "P" with weight W, before and after:
 *
 *   linear   y = Gemm(x, W, b)      y = Gemm(x, W, b)
 *                                   s = y + Gemm(Mul(Gemm(x, P.lora_down), P.lora_gain), P.lora_up)
 *   conv     y = Conv(x, W, b)      y = Conv(x, W, b)
 *                                   s = y + Conv1x1(Mul(Conv(x, P.lora_down), Reshape(P.lora_gain, [1,R,1,1])), P.lora_up)
 *
 * The branch's first Conv has the layer's strides, pads and dilations. In a biased slot the last Gemm or Conv1x1 has P.lora_bias as
 * its bias. Every use of y becomes a use of s. The nodes of a branch
 * stand right after the layer's own node, so that x is still at hand. Conditions: Conv with one group, Gemm with transB = 1 and
 * alpha = beta = 1.
 *
 * Dimension letters: N batch, O outputs, I inputs, R rank, kh kw kernel.
 */
#include "lib/adapter/adapter.h"

#include <stdlib.h>
#include <string.h>

/* ---- which layers ---- */

/* True when `path` has the component `name` ("attn1" in "a.attn1.to_q"). */
static bool has_component(const char *path, const char *name)
{
	size_t n = strlen(name);
	for (const char *at = path; (at = strstr(at, name)) != NULL; at += n)
		if ((at == path || at[-1] == '.') && (at[n] == '.' || at[n] == '\0'))
			return true;
	return false;
}

static bool in_attention(const struct qd_module *module)
{
	static const char *const ends[] = { ".to_q", ".to_k", ".to_v", ".to_out.0" };
	if (!has_component(module->path, "attn1") && !has_component(module->path, "attn2"))
		return false;
	for (size_t i = 0; i < QD_COUNT(ends); i++)
		if (qd_ends_with(module->path, ends[i]))
			return true;
	return false;
}

/* What kohya's trainers adapt by default: all of a Transformer2DModel. */
static bool in_transformer(const struct qd_module *module)
{
	return has_component(module->path, "attentions") && module->kh == 1 && module->kw == 1;
}

static bool any_module(const struct qd_module *module)
{
	(void)module;
	return true;
}

static const struct policy {
	const char *name;
	bool (*selects)(const struct qd_module *module);
} policies[] = {
	{ "union", NULL }, /* whatever the adapters have */
	{ "attention", in_attention },
	{ "transformer", in_transformer },
	{ "all", any_module },
};

const char *qd_slots_policy_name(size_t i)
{
	return i < QD_COUNT(policies) ? policies[i].name : NULL;
}

void qd_module_sets_add(struct qd_module_sets *sets, const struct qd_module *module)
{
	sets->attention += in_attention(module);
	sets->transformer += in_transformer(module);
	sets->all++;
}

/* Marks the modules whose paths are the lines of a file; blank lines and lines that begin with '#' are skipped. */
static enum qd_status choose_listed(const struct qd_modules *modules, const char *path, bool *chosen)
{
	struct qd_mapping file = { 0 };
	enum qd_status st;
	size_t line = 0;

	QD_TRY(st, qd_mapping_open(&file, path));
	for (size_t at = 0, end; at < file.size; at = end + 1) {
		char name[512];
		size_t n;
		const struct qd_module *module;
		for (end = at; end < file.size && file.data[end] != '\n';)
			end++;
		line++;
		for (n = end - at; n > 0 && (file.data[at + n - 1] == '\r' || file.data[at + n - 1] == ' ');)
			n--;
		if (n == 0 || file.data[at] == '#')
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(n < sizeof(name) ? n : sizeof(name) - 1), (const char *)file.data + at);
		module = qd_modules_find(modules, name);
		if (module == NULL) {
			st = qd_fail(QD_EINPUT, "'%s' line %zu: '%s' is no layer of this model", path, line, name);
			goto out;
		}
		chosen[module - modules->items] = true;
	}
out:
	qd_mapping_release(&file);
	return st;
}

static void choose_union(const struct qd_modules *modules, const struct qd_adapter *const *adapters, size_t n, bool *chosen)
{
	for (size_t i = 0; i < modules->n; i++)
		for (size_t a = 0; a < n; a++)
			chosen[i] |= qd_adapter_find(adapters[a], modules->items[i].path) != NULL;
}

static enum qd_status choose(
	const struct qd_modules *modules, const struct qd_adapter *const *adapters, size_t n, const char *policy, bool *chosen)
{
	const struct policy *row = policies;

	while (policy != NULL && row < policies + QD_COUNT(policies) && strcmp(policy, row->name) != 0)
		row++;
	if (row == policies + QD_COUNT(policies))
		return choose_listed(modules, policy, chosen);
	if (row->selects == NULL)
		choose_union(modules, adapters, n, chosen);
	for (size_t i = 0; i < modules->n && row->selects != NULL; i++)
		chosen[i] = row->selects(&modules->items[i]);
	return QD_OK;
}

/* ---- of which rank ---- */

enum qd_status qd_slots_check(const struct qd_slots *slots, const struct qd_adapter *adapter)
{
	const struct qd_lora *lost = NULL, *wide = NULL;
	size_t n_lost = 0, n_wide = 0;

	for (size_t i = 0; i < adapter->n; i++) {
		const struct qd_lora *lora = &adapter->loras[i];
		uint32_t at = qd_strmap_get(&slots->by_path, lora->path);

		if (at == QD_NONE) {
			lost = n_lost++ == 0 ? lora : lost;
		} else if (lora->rank > slots->items[at].rank) {
			wide = n_wide++ == 0 ? lora : wide;
		}
	}
	if (lost != NULL)
		return qd_fail(QD_EINPUT,
			"changes %zu of its %zu layers where there is no slot, the first is '%s': quad qss --slots "
			"declares slots for other adapters' layers, or score them together",
			n_lost, adapter->n, lost->path);
	if (wide != NULL)
		return qd_fail(QD_EINPUT,
			"has a higher rank than its slot in %zu of its %zu layers, the first is '%s' with rank %lld "
			"where %lld fit: quad qss --rank makes slots wider",
			n_wide, adapter->n, wide->path, (long long)wide->rank,
			(long long)slots->items[qd_strmap_get(&slots->by_path, wide->path)].rank);
	return QD_OK;
}

/* The largest rank over the adapters at `path`. */
static int64_t largest_rank_at(const struct qd_adapter *const *adapters, size_t n, const char *path)
{
	int64_t rank = 0;
	for (size_t a = 0; a < n; a++) {
		const struct qd_lora *lora = qd_adapter_find(adapters[a], path);
		if (lora != NULL && lora->rank > rank)
			rank = lora->rank;
	}
	return rank;
}

static bool any_bias_at(const struct qd_adapter *const *adapters, size_t n, const char *path)
{
	bool any = false;

	for (size_t a = 0; a < n; a++) {
		const struct qd_lora *lora = qd_adapter_find(adapters[a], path);
		any |= lora != NULL && lora->bias != NULL;
	}
	return any;
}

static int64_t largest_rank(const struct qd_adapter *const *adapters, size_t n)
{
	int64_t rank = 0;
	for (size_t a = 0; a < n; a++)
		for (size_t i = 0; i < adapters[a]->n; i++)
			if (adapters[a]->loras[i].rank > rank)
				rank = adapters[a]->loras[i].rank;
	return rank;
}

static enum qd_status add_slot(struct qd_slots *slots, const struct qd_module *module, int64_t rank, bool biased)
{
	struct qd_slot *slot = &slots->items[slots->n];

	if (rank <= 0)
		return qd_fail(QD_EINPUT, "no adapter says which rank slot '%s' needs, and none was asked for", module->path);
	*slot = (struct qd_slot){ .path = qd_arena_strdup(&slots->arena, module->path),
		.rank = rank,
		.out = module->out,
		.in = module->in,
		.kh = module->kh,
		.kw = module->kw,
		.conv = module->conv,
		.biased = biased,
		.down = QD_NONE,
		.up = QD_NONE,
		.gain = QD_NONE,
		.bias = QD_NONE,
		.weight = module->weight,
		.base = QD_NONE,
		.sum = QD_NONE };
	if (slot->path == NULL)
		return QD_ENOMEM;
	return qd_strmap_put(&slots->by_path, slot->path, (uint32_t)slots->n++);
}

enum qd_status qd_slots_choose(struct qd_slots *slots, const struct qd_modules *modules, const struct qd_adapter *const *adapters,
	size_t n, const char *policy, int64_t rank)
{
	bool *chosen = calloc(modules->n + 1, sizeof(*chosen));
	int64_t any = rank > 0 ? rank : largest_rank(adapters, n);
	enum qd_status st = QD_OK;

	*slots = (struct qd_slots){ 0 };
	if (chosen == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	QD_TRY(st, choose(modules, adapters, n, policy, chosen));
	slots->items = qd_arena_array(&slots->arena, modules->n, sizeof(*slots->items));
	if (slots->items == NULL) {
		st = QD_ENOMEM;
		goto out;
	}
	for (size_t i = 0; i < modules->n; i++) {
		int64_t own = chosen[i] && rank <= 0 ? largest_rank_at(adapters, n, modules->items[i].path) : 0;
		/* a slot kept free for later adapters gets as much rank as any present one needs */
		if (chosen[i])
			QD_TRY(st, add_slot(slots, &modules->items[i], own > 0 ? own : any,
					   any_bias_at(adapters, n, modules->items[i].path)));
	}
	for (size_t a = 0; a < n; a++)
		QD_TRY(st, qd_prefix(qd_slots_check(slots, adapters[a]), "adapter '%s'", adapters[a]->name));
out:
	free(chosen);
	if (st != QD_OK)
		qd_slots_release(slots);
	return st;
}

void qd_slots_release(struct qd_slots *slots)
{
	qd_strmap_release(&slots->by_path);
	qd_arena_release(&slots->arena);
	*slots = (struct qd_slots){ 0 };
}

/* ---- attaching ---- */

/* "<path><suffix>" in the graph's arena; "" after a failure, which the graph then remembers. */
static const char *branch_name(struct qd_graph *g, const struct qd_slot *slot, const char *suffix)
{
	const char *name = qd_arena_strf(&g->arena, "%s%s", slot->path, suffix);
	if (name == NULL)
		qd_graph_stop(g, QD_ENOMEM);
	return name != NULL ? name : "";
}

static enum qd_status check_layer(const struct qd_slot *slot, const struct qd_node *node)
{
	if (node->op == QD_OP_CONV && qd_node_int(node, "group", 1) != 1)
		return qd_fail(QD_EUNSUPPORTED, "'%s' is a convolution in %lld groups, a low-rank branch needs one", slot->path,
			(long long)qd_node_int(node, "group", 1));
	if (node->op == QD_OP_GEMM && (qd_node_int(node, "transB", 0) != 1 || qd_node_int(node, "transA", 0) != 0 ||
					      qd_node_float(node, "alpha", 1) != 1 || qd_node_float(node, "beta", 1) != 1))
		return qd_fail(QD_EUNSUPPORTED, "'%s' is a Gemm with factors or another layout than x w^T", slot->path);
	if (node->op != QD_OP_GEMM && node->op != QD_OP_CONV)
		return qd_fail(
			QD_EUNSUPPORTED, "'%s' is a %s, a low-rank branch needs Gemm or Conv", slot->path, qd_op(node->op)->name);
	return QD_OK;
}

static void add_inputs(struct qd_graph *g, struct qd_slot *slot)
{
	struct qd_shape down = QD_SHAPE(slot->rank, slot->in), up = QD_SHAPE(slot->out, slot->rank);
	if (slot->conv) {
		down = QD_SHAPE(slot->rank, slot->in, slot->kh, slot->kw);
		up = QD_SHAPE(slot->out, slot->rank, 1, 1);
	}
	slot->down = qd_graph_input(g, branch_name(g, slot, qd_lora_suffix(QD_LORA_DOWN)), QD_F32, down);
	slot->up = qd_graph_input(g, branch_name(g, slot, qd_lora_suffix(QD_LORA_UP)), QD_F32, up);
	slot->gain = qd_graph_input(g, branch_name(g, slot, qd_lora_suffix(QD_LORA_GAIN)), QD_F32, QD_SHAPE(slot->rank));
	if (slot->biased)
		slot->bias = qd_graph_input(g, branch_name(g, slot, qd_lora_suffix(QD_LORA_BIAS)), QD_F32, QD_SHAPE(slot->out));
}

static qd_id add_linear(struct qd_graph *g, const struct qd_slot *slot, qd_id x)
{
	const struct qd_attr transposed = QD_AI("transB", 1);
	qd_id t;

	t = qd_graph_node(g, QD_OP_GEMM, branch_name(g, slot, ".lora_down_out"), 2, (qd_id[]){ x, slot->down }, 1, &transposed);
	t = qd_graph_node(g, QD_OP_MUL, branch_name(g, slot, ".lora_gain_out"), 2, (qd_id[]){ t, slot->gain }, 0, NULL);
	return qd_graph_node(g, QD_OP_GEMM, branch_name(g, slot, ".lora_up_out"), slot->biased ? 3 : 2,
		(qd_id[]){ t, slot->up, slot->bias }, 1, &transposed);
}

static qd_id add_conv(struct qd_graph *g, const struct qd_slot *slot, qd_id x, const struct qd_attr *attrs, size_t n_attrs)
{
	const int64_t channels[] = { 1, slot->rank, 1, 1 };
	qd_id t, gain, shape;

	shape = qd_graph_const_i64(g, branch_name(g, slot, ".lora_gain_shape"), 4, channels);
	gain = qd_graph_node(
		g, QD_OP_RESHAPE, branch_name(g, slot, ".lora_gain_channels"), 2, (qd_id[]){ slot->gain, shape }, 0, NULL);
	t = qd_graph_node(g, QD_OP_CONV, branch_name(g, slot, ".lora_down_out"), 2, (qd_id[]){ x, slot->down }, n_attrs, attrs);
	t = qd_graph_node(g, QD_OP_MUL, branch_name(g, slot, ".lora_gain_out"), 2, (qd_id[]){ t, gain }, 0, NULL);
	return qd_graph_node(g, QD_OP_CONV, branch_name(g, slot, ".lora_up_out"), slot->biased ? 3 : 2,
		(qd_id[]){ t, slot->up, slot->bias }, 0, NULL);
}

/*
 * The sum takes over what the layer's output was: its uses, and where that is an output of the graph its name ("out"); the layer's
 * own output is then called after the layer.
 */
static enum qd_status take_over(struct qd_graph *g, const struct qd_slot *slot, bool output)
{
	const char *old = g->values[slot->base].name, *own = slot->path;
	enum qd_status st;

	qd_graph_replace(g, slot->base, slot->sum, g->values[slot->sum].producer);
	if (!output)
		return QD_OK;
	if (qd_graph_find(g, own) != QD_NONE)
		own = qd_graph_unique(g, branch_name(g, slot, ".base"));
	QD_TRY(st, qd_graph_status(g));
	QD_TRY(st, qd_graph_rename(g, slot->base, own));
	QD_TRY(st, qd_graph_rename(g, slot->sum, old));
out:
	return st;
}

/* The node called like the layer, or the one that uses "<path>.weight" (in graphs whose nodes were named by others). */
static qd_id layer_node(struct qd_graph *g, const struct qd_slot *slot)
{
	qd_id id = qd_graph_find_node(g, slot->path), weight = qd_graph_find(g, branch_name(g, slot, ".weight"));

	for (size_t i = 0; i < g->n_order && id == QD_NONE && weight != QD_NONE; i++)
		if (g->nodes[g->order[i]].n_in > 1 && g->nodes[g->order[i]].in[1] == weight)
			id = g->order[i];
	return id;
}

static enum qd_status attach(struct qd_slot *slot, struct qd_graph *g)
{
	qd_id id = layer_node(g, slot);
	struct qd_node node;
	qd_id t;
	enum qd_status st;

	if (id == QD_NONE)
		return qd_fail(QD_EINPUT, "graph '%s' has no layer '%s'", g->name, slot->path);
	node = g->nodes[id]; /* a copy: adding nodes moves the array */
	QD_TRY(st, check_layer(slot, &node));
	add_inputs(g, slot);
	t = slot->conv ? add_conv(g, slot, node.in[0], node.attrs, node.n_attrs) : add_linear(g, slot, node.in[0]);
	slot->base = node.out[0];
	slot->weight = node.in[1];
	slot->sum = qd_graph_node(g, QD_OP_ADD, branch_name(g, slot, ".lora_sum"), 2, (qd_id[]){ slot->base, t }, 0, NULL);
	QD_TRY(st, qd_graph_status(g));
	QD_TRY(st, take_over(g, slot, qd_graph_is_output(g, slot->base)));
out:
	return qd_prefix(st, "slot '%s'", slot->path);
}

/* Moves the nodes behind the first `old` of the order, which are grouped by slot, to behind the layer they belong to. */
static enum qd_status place_branches(struct qd_graph *g, size_t old, const size_t *first, const struct qd_slots *slots)
{
	qd_id *order = malloc((g->n_order + 1) * sizeof(*order));
	uint32_t *slot_of = malloc((g->n_nodes + 1) * sizeof(*slot_of));
	enum qd_status st = QD_OK;
	size_t n = 0;

	if (order == NULL || slot_of == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	memset(slot_of, 0xff, (g->n_nodes + 1) * sizeof(*slot_of));
	for (size_t s = 0; s < slots->n; s++)
		slot_of[g->values[slots->items[s].base].producer] = (uint32_t)s;
	for (size_t i = 0; i < old; i++) {
		uint32_t s = slot_of[g->order[i]];
		order[n++] = g->order[i];
		for (size_t b = s != QD_NONE ? first[s] : 0; s != QD_NONE && b < first[s + 1]; b++)
			order[n++] = g->order[b];
	}
	memcpy(g->order, order, n * sizeof(*order));
	st = qd_graph_sort(g);
out:
	free(order);
	free(slot_of);
	return st;
}

enum qd_status qd_slots_attach(struct qd_slots *slots, struct qd_graph *g)
{
	size_t old = g->n_order, *first = calloc(slots->n + 1, sizeof(*first));
	enum qd_status st = QD_OK;

	if (first == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t s = 0; s < slots->n; s++) {
		first[s] = g->n_order;
		QD_TRY(st, attach(&slots->items[s], g));
	}
	first[slots->n] = g->n_order;
	QD_TRY(st, place_branches(g, old, first, slots));
out:
	free(first);
	return st;
}

/* ---- filling ---- */

enum qd_status qd_slot_fill(
	const struct qd_slot *slot, const struct qd_lora *lora, float *down, float *up, float *gain, float *bias)
{
	size_t columns = (size_t)(slot->in * slot->kh * slot->kw), rank = (size_t)slot->rank, outs = (size_t)slot->out, r;

	memset(down, 0, rank * columns * sizeof(*down));
	memset(up, 0, outs * rank * sizeof(*up));
	memset(gain, 0, rank * sizeof(*gain));
	if (slot->biased)
		memset(bias, 0, outs * sizeof(*bias));
	if (lora == NULL)
		return QD_OK;
	if (lora->out != slot->out || lora->in != slot->in || lora->kh != slot->kh || lora->kw != slot->kw)
		return qd_fail(QD_EINPUT, "slot '%s': layer of %lld x %lld x %lld x %lld, needs %lld x %lld x %lld x %lld",
			slot->path, (long long)lora->out, (long long)lora->in, (long long)lora->kh, (long long)lora->kw,
			(long long)slot->out, (long long)slot->in, (long long)slot->kh, (long long)slot->kw);
	if (lora->rank > slot->rank)
		return qd_fail(QD_EINPUT, "slot '%s': rank %lld does not fit into %lld", slot->path, (long long)lora->rank,
			(long long)slot->rank);
	if (lora->bias != NULL && !slot->biased)
		return qd_fail(QD_EINPUT,
			"slot '%s' has no input for a bias, which the adapter has ('lora_B.bias'): it must be among those that the "
			"slots are chosen for",
			slot->path);
	r = (size_t)lora->rank;
	memcpy(down, lora->down, r * columns * sizeof(*down));
	if (lora->bias != NULL)
		memcpy(bias, lora->bias, outs * sizeof(*bias));
	memcpy(gain, lora->gain, r * sizeof(*gain));
	for (size_t o = 0; o < outs; o++)
		memcpy(up + o * rank, lora->up + o * r, r * sizeof(*up));
	return QD_OK;
}
