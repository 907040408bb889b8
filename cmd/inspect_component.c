/*
 * quad inspect on a component folder: a text encoder or a VAE.
 */
#include "cmd/inspect.h"

#include <stdio.h>
#include <string.h>

enum { VAE_LATENT_SIDE = 64 };

/* One graph of the component at its native size. */
struct part {
	const char *name; /* "decoder", "encoder"; "" for the only one */
	struct qd_graph g;
	struct qd_cost cost;
	struct qd_modules modules;
};

struct facts {
	const struct qd_component *component;
	struct qd_weight_facts weights;
	size_t tensors;
	struct part parts[2];
	size_t n;
};

/* ---- gathering ---- */

static bool is_vae(const struct qd_component *c)
{
	return c->kind == QD_COMPONENT_VAE || c->kind == QD_COMPONENT_TINY_VAE;
}

/* Image pixels per latent pixel, each way. */
static int64_t vae_factor(const struct qd_component *c)
{
	return (int64_t)1 << (c->vae.blocks - 1);
}

/* Builds the graph, which also checks every tensor's name and shape. */
static enum qd_status gather_part(struct facts *f, enum qd_vae_part which)
{
	const struct qd_component *c = f->component;
	struct part *part = &f->parts[f->n++];
	struct qd_component_sizes sizes = { .part = which, .batch = 1 };
	int64_t latent = is_vae(c) && c->vae.sample_size ? c->vae.sample_size / vae_factor(c) : VAE_LATENT_SIDE;
	enum qd_status st;
	latent = latent ? latent : 1;
	sizes.height = sizes.width = which == QD_VAE_ENCODER && is_vae(c) ? latent * vae_factor(c) : latent;
	sizes.tokens = c->text.positions;
	part->name = !is_vae(c) ? "" : which == QD_VAE_ENCODER ? "encoder" : "decoder";
	QD_TRY(st, qd_component_graph(&part->g, c, &sizes));
	QD_TRY(st, qd_graph_cost(&part->g, &part->cost));
	QD_TRY(st, qd_modules_of(&part->modules, &part->g));
out:
	return st;
}

static enum qd_status gather(struct facts *f)
{
	const struct qd_weights *weights = &f->component->weights;
	enum qd_status st;
	for (size_t i = 0; i < weights->n; i++) {
		if (weights->tensors[i]->dtype == QD_I64) /* position_ids: 0, 1, 2, ... of older files, no parameter */
			continue;
		qd_weight_facts_add(&f->weights, weights->tensors[i]);
		f->tensors++;
	}
	QD_TRY(st, gather_part(f, QD_VAE_DECODER));
	if (is_vae(f->component))
		QD_TRY(st, gather_part(f, QD_VAE_ENCODER));
out:
	return st;
}

/* ---- text ---- */

static void print_text_config(const struct qd_text_config *c)
{
	char digits[QD_DIGITS];
	qd_print("  encoder     %lld layers of %lld features, %lld heads, %s, %s ids, %lld positions\n", (long long)c->layers,
		(long long)c->hidden, (long long)c->heads, c->act == QD_OP_GELU ? "gelu" : "quick_gelu",
		qd_digits((uint64_t)c->vocabulary, digits), (long long)c->positions);
	if (c->eos == 2)
		qd_print("  pooling     the first position of the largest id\n");
	else
		qd_print("  pooling     the first position of id %lld\n", (long long)c->eos);
	if (c->projection)
		qd_print("  projection  to %lld features\n", (long long)c->projection);
	if (c->uses_attention_mask)
		qd_print("  mask        taken: padding is not attended to\n");
}

static void print_vae_config(const struct qd_component *component)
{
	const struct qd_vae_config *c = &component->vae;
	long long factor = (long long)vae_factor(component);
	qd_print("  latents     %lld channels, one for %lld x %lld pixels, scaling factor %g%s\n", (long long)c->latent_channels,
		factor, factor, c->scaling_factor, c->normalized ? ", normalized by channel" : "");
	qd_print("  blocks      ");
	for (int i = 0; i < c->blocks; i++)
		qd_print("%s%lld x%lld", i ? ", " : "", (long long)c->channels[i], (long long)c->layers[i]);
	qd_print("%s\n", c->mid_attention ? ", mid attention" : "");
}

static void print_values(const char *what, const struct qd_graph *g, const qd_id *ids, size_t n)
{
	char shape[QD_SHAPE_TEXT];
	for (size_t i = 0; i < n; i++) {
		const struct qd_value *v = &g->values[ids[i]];
		qd_print("  %-10s  %s %s %s\n", i ? "" : what, v->name, qd_dtype_name(v->dtype), qd_shape_text(&v->shape, shape));
	}
}

static void print_part(const struct part *p)
{
	double flop = p->cost.conv + p->cost.linear + p->cost.attention;
	if (*p->name)
		qd_print("  --part %s\n", p->name);
	print_values("inputs", &p->g, p->g.inputs, p->g.n_inputs);
	print_values("outputs", &p->g, p->g.outputs, p->g.n_outputs);
	qd_print("  modules     %zu convolutions and linears\n", p->modules.n);
	qd_print("  compute     %.4g GFLOP a run: convolutions %.4g, linears %.4g, attention %.4g\n", flop / 1e9,
		p->cost.conv / 1e9, p->cost.linear / 1e9, p->cost.attention / 1e9);
	qd_print("  memory      weights %.3f GB as F32, activations %.3f GB at most\n", (double)p->cost.weights * 4e-9,
		(double)p->cost.activations * 4e-9);
}

static const char *class_name(const struct qd_component *c)
{
	return c->kind == QD_COMPONENT_TEXT && c->text.projection ? "CLIPTextModelWithProjection" : qd_component_kind_name(c->kind);
}

static enum qd_status print_text(const struct facts *f)
{
	const struct qd_component *c = f->component;
	char digits[QD_DIGITS];
	qd_print("%s: %s\n", c->folder, class_name(c));
	qd_print("  parameters  %s in %zu tensors, %s, %.3f GB\n", qd_digits(f->weights.parameters, digits), f->tensors,
		f->weights.dtypes, (double)f->weights.bytes / 1e9);
	if (is_vae(c))
		print_vae_config(c);
	else
		print_text_config(&c->text);
	for (size_t i = 0; i < f->n; i++)
		print_part(&f->parts[i]);
	return QD_OK;
}

/* ---- JSON ---- */

static json_t *values_json(const struct qd_graph *g, const qd_id *ids, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++) {
		const struct qd_value *v = &g->values[ids[i]];
		json_t *shape = json_array();
		for (int d = 0; d < v->shape.rank; d++)
			json_array_append_new(shape, json_integer(v->shape.dim[d]));
		json_array_append_new(
			list, json_pack("{s:s,s:s,s:o}", "name", v->name, "dtype", qd_dtype_name(v->dtype), "shape", shape));
	}
	return list;
}

static json_t *part_json(const struct part *p)
{
	json_t *o = json_object();
	if (*p->name)
		json_object_set_new(o, "part", json_string(p->name));
	json_object_set_new(o, "inputs", values_json(&p->g, p->g.inputs, p->g.n_inputs));
	json_object_set_new(o, "outputs", values_json(&p->g, p->g.outputs, p->g.n_outputs));
	json_object_set_new(o, "modules", json_integer((json_int_t)p->modules.n));
	json_object_set_new(o, "flop",
		json_pack("{s:f,s:f,s:f}", "conv", p->cost.conv, "linear", p->cost.linear, "attention", p->cost.attention));
	json_object_set_new(o, "activation_bytes", json_integer((json_int_t)(p->cost.activations * 4)));
	return o;
}

static json_t *text_json(const struct qd_text_config *c)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:s,s:I,s:I,s:b}", "features", (json_int_t)c->hidden, "layers",
		(json_int_t)c->layers, "heads", (json_int_t)c->heads, "positions", (json_int_t)c->positions, "vocabulary",
		(json_int_t)c->vocabulary, "act", c->act == QD_OP_GELU ? "gelu" : "quick_gelu", "eos", (json_int_t)c->eos,
		"projection", (json_int_t)c->projection, "attention_mask", c->uses_attention_mask);
}

static json_t *vae_json(const struct qd_component *component)
{
	const struct qd_vae_config *c = &component->vae;
	json_t *o = json_pack("{s:I,s:I,s:I,s:I,s:f,s:b}", "in_channels", (json_int_t)c->in_channels, "out_channels",
		(json_int_t)c->out_channels, "latent_channels", (json_int_t)c->latent_channels, "factor",
		(json_int_t)vae_factor(component), "scaling_factor", c->scaling_factor, "mid_attention", c->mid_attention);
	json_t *mean = json_array(), *std = json_array();
	for (int64_t i = 0; c->normalized && i < c->latent_channels; i++) {
		json_array_append_new(mean, json_real(c->mean[i]));
		json_array_append_new(std, json_real(c->std[i]));
	}
	json_object_set_new(o, "latents_mean", c->normalized ? mean : json_null());
	json_object_set_new(o, "latents_std", c->normalized ? std : json_null());
	if (!c->normalized) {
		json_decref(mean);
		json_decref(std);
	}
	return o;
}

static enum qd_status print_json(const struct facts *f)
{
	const struct qd_component *c = f->component;
	json_t *root = json_pack("{s:i,s:s,s:s,s:s}", "schema", 1, "kind", "component", "path", c->folder, "class", class_name(c)),
	       *parts = json_array();
	json_object_set_new(root, "parameters", json_integer((json_int_t)f->weights.parameters));
	json_object_set_new(root, "tensors", json_integer((json_int_t)f->tensors));
	json_object_set_new(root, "bytes", json_integer((json_int_t)f->weights.bytes));
	json_object_set_new(root, "dtypes", json_string(f->weights.dtypes));
	json_object_set_new(root, "config", is_vae(c) ? vae_json(c) : text_json(&c->text));
	for (size_t i = 0; i < f->n; i++)
		json_array_append_new(parts, part_json(&f->parts[i]));
	json_object_set_new(root, "graphs", parts);
	return qd_print_json(root);
}

/* ---- beside a UNet ---- */

static const char *const beside[] = { "vae", "text_encoder", "text_encoder_2" };

/* The class of a pipeline's component, or why it is none that can be read; NULL when it is not there. */
static const char *beside_class(const char *root, const char *name)
{
	char path[QD_PATH_BYTES];
	enum qd_component_kind kind;
	if (qd_path_join(path, root, "%s", name) != QD_OK || !qd_is_component(path))
		return NULL;
	return qd_component_peek(path, NULL, &kind) == QD_OK ? qd_component_kind_name(kind) : qd_message();
}

void qd_print_components(const char *root)
{
	for (size_t i = 0; i < QD_COUNT(beside); i++) {
		const char *class = beside_class(root, beside[i]);
		if (class != NULL)
			qd_print("  beside      %s: %s (--part %s)\n", beside[i], class, beside[i]);
	}
}

json_t *qd_components_json(const char *root)
{
	json_t *list = json_array();
	for (size_t i = 0; i < QD_COUNT(beside); i++) {
		const char *class = beside_class(root, beside[i]);
		if (class != NULL)
			json_array_append_new(list, json_pack("{s:s,s:s}", "part", beside[i], "class", class));
	}
	return list;
}

/* ---- all of it ---- */

enum qd_status qd_inspect_component(const char *path, const char *name, const struct qd_common *common)
{
	struct qd_component component = { 0 };
	struct facts facts = { .component = &component };
	enum qd_status st;
	QD_TRY(st, qd_component_open(&component, path, name));
	if (component.kind == QD_COMPONENT_UNET)
		QD_TRY(st, qd_inspect_model(component.folder, common));
	if (component.kind == QD_COMPONENT_UNET)
		goto out;
	QD_TRY(st, gather(&facts));
	QD_TRY(st, common->json ? print_json(&facts) : print_text(&facts));
out:
	for (size_t i = 0; i < facts.n; i++) {
		qd_modules_release(&facts.parts[i].modules);
		qd_graph_release(&facts.parts[i].g);
	}
	qd_component_release(&component);
	return st;
}
