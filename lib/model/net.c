/*
 * A net: the UNet for given sizes with its slots attached.
 */
#include "lib/model/model.h"

/* Paths, ranks and shapes of `from`; the ids come with attaching. */
static enum qd_status copy_slots(struct qd_slots *to, const struct qd_slots *from)
{
	enum qd_status st = QD_OK;
	to->items = qd_arena_array(&to->arena, from->n, sizeof(*to->items));
	if (to->items == NULL)
		QD_TRY(st, QD_ENOMEM);
	for (size_t i = 0; i < from->n; i++) {
		struct qd_slot *slot = &to->items[i];
		*slot = from->items[i];
		slot->down = slot->up = slot->gain = slot->bias = slot->weight = slot->base = slot->sum = QD_NONE;
		slot->path = qd_arena_strdup(&to->arena, from->items[i].path);
		if (slot->path == NULL)
			QD_TRY(st, QD_ENOMEM);
		QD_TRY(st, qd_strmap_put(&to->by_path, slot->path, (uint32_t)i));
		to->n++;
	}
out:
	return st;
}

enum qd_status qd_net_build(
	struct qd_net *net, const struct qd_model *model, const struct qd_sizes *sizes, const struct qd_slots *slots_from)
{
	enum qd_status st;
	*net = (struct qd_net){ .sizes = *sizes };
	QD_TRY(st, qd_model_graph(&net->graph, model, sizes));
	QD_TRY(st, copy_slots(&net->slots, slots_from));
	QD_TRY(st, qd_slots_attach(&net->slots, &net->graph));
out:
	if (st != QD_OK)
		qd_net_release(net);
	return st;
}

void qd_net_release(struct qd_net *net)
{
	qd_slots_release(&net->slots);
	qd_graph_release(&net->graph);
	*net = (struct qd_net){ 0 };
}
