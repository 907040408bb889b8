/* A component of the pipeline that is executed one image or caption at a time, and the random numbers of every one of them. */
#include "lib/data/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void qd_prepare_random(struct qd_random *random, uint64_t seed, enum qd_prepare_stream stream, int64_t index)
{
	qd_random_init(random, seed, ((uint64_t)stream << 48) + (uint64_t)index);
}

void qd_prepare_noise(uint64_t seed, enum qd_prepare_stream stream, int64_t index, size_t n, float *out)
{
	struct qd_random random;

	qd_prepare_random(&random, seed, stream, index);
	for (size_t i = 0; i < n; i++)
		out[i] = (float)qd_random_normal(&random);
}

enum qd_status qd_prepare_network_open(
	struct qd_prepare_network *part, const char *root, const char *name, enum qd_component_kind kind)
{
	enum qd_component_kind found;
	enum qd_status st;

	*part = (struct qd_prepare_network){ 0 };
	st = qd_component_open(&part->component, root, name);
	if (st != QD_OK)
		return st;
	qd_graph_init(&part->graph, name);
	found = part->component.kind;
	if (found == QD_COMPONENT_TINY_VAE && kind == QD_COMPONENT_VAE)
		found = QD_COMPONENT_VAE;
	return found == kind ? QD_OK
			     : qd_fail(QD_EINPUT, "'%s/%s' is a %s, needs %s", root, name, qd_component_kind_name(found),
				       qd_component_kind_name(kind));
}

enum qd_status qd_prepare_network_build(struct qd_prepare_network *part, const struct qd_component_sizes *sizes)
{
	struct qd_exec_options options = { 0 };
	enum qd_status st = qd_component_graph(&part->graph, &part->component, sizes);

	return st == QD_OK ? qd_exec_new(&part->exec, &part->graph, &options) : st;
}

enum qd_status qd_prepare_network_run(struct qd_prepare_network *part, const char *name, size_t n, float *out)
{
	const struct qd_graph *g = &part->graph;
	qt_tensor *outputs = calloc(g->n_outputs, sizeof(*outputs));
	bool grad = qt_get_grad();
	enum qd_status st;

	if (outputs == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	qt_set_grad(false);
	QD_TRY(st, qd_exec_run(part->exec, outputs));
	st = qd_fail(QD_EINPUT, "'%s' has no output '%s'", part->component.folder, name);
	for (size_t i = 0; i < g->n_outputs; i++)
		if (strcmp(g->values[g->outputs[i]].name, name) == 0)
			st = qt_read(outputs[i], out, n * sizeof(float));
out:
	qt_set_grad(grad);
	for (size_t i = 0; i < g->n_outputs; i++)
		qt_free(outputs[i]);
	free(outputs);
	return st;
}

void qd_prepare_network_release(struct qd_prepare_network *part)
{
	if (part->component.folder == NULL)
		return;
	qd_exec_free(part->exec);
	qd_graph_release(&part->graph);
	qd_component_release(&part->component);
	*part = (struct qd_prepare_network){ 0 };
}

enum qd_status qd_prepare_network_hash(const struct qd_prepare_network *part, char *out)
{
	const struct qd_weights *w = &part->component.weights;
	size_t room = (w->n_files + 1) * QD_HASH_TEXT;
	char *all = calloc(room, 1), *config = NULL;
	enum qd_status st = QD_OK;

	if (all == NULL || asprintf(&config, "%s/config.json", part->component.folder) < 0) {
		config = NULL;
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	}
	if (qd_is_file(config))
		QD_TRY(st, qd_hash_file(config, all));
	for (size_t i = 0; i < w->n_files; i++)
		qd_hash_bytes(w->files[i].mapping.data, w->files[i].mapping.size, all + (i + 1) * QD_HASH_TEXT);
	qd_hash_bytes(all, room, out);
out:
	free(all);
	free(config);
	return st;
}
