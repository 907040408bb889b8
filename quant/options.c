/* The options of quantization as a table in memory, and how their values are spelled; the rows stand in options.def. */
#include "quant/internal.h"

#define FIRST(first, ...) first
#define NAME(id, ...) FIRST(__VA_ARGS__, ),
const char *const qd_weight_scheme_names[] = { QD_WEIGHT_SCHEME_LIST(NAME) NULL };
const char *const qd_share_names[] = { QD_SHARE_LIST(NAME) NULL };
const char *const qd_align_names[] = { QD_ALIGN_LIST(NAME) NULL };
const char *const qd_method_names[] = { QD_METHOD_LIST(NAME) NULL };
const char *const qd_observer_names[] = { QD_OBSERVER_LIST(NAME) NULL };
const char *const qd_divergence_names[] = { QD_DIVERGENCE_LIST(NAME) NULL };
const char *const qd_scope_names[] = { QD_SCOPE_LIST(NAME) NULL };
const char *const qd_entry_names[] = { QD_ENTRY_LIST(NAME) NULL };

struct qd_quant_options qd_quant_options_default(void)
{
	return (struct qd_quant_options){
#define OPTION(kind, field, option, normal, ...) .field = normal,
#include "quant/options.def"
#undef OPTION
	};
}

#define KIND_BITS(...) QD_MEMBER_BITS, .low = FIRST(__VA_ARGS__, ) == 0 ? 0 : 1, .high = 32
#define KIND_CHOICE(type, list) QD_MEMBER_CHOICE, .names = list
#define KIND_NUMBER(from, to) QD_MEMBER_NUMBER, .low = from, .high = to
#define KIND_WHOLE(from, to) QD_MEMBER_WHOLE, .low = 0, .high = to
#define KIND_TEXT QD_MEMBER_OPTIONAL_TEXT
#define KIND_TEXT_OR(name_at) QD_MEMBER_OPTIONAL_TEXT
const struct qd_member qd_quant_members[] = {
#define OPTION(type, field, option, normal, written, ...)                                                                          \
	{ .key = #field, .at = offsetof(struct qd_quant_options, field), .in = written, .kind = KIND_##type },
#include "quant/options.def"
#undef OPTION
	{ 0 },
};

enum qd_status qd_quant_options_copy(struct qd_arena *arena, const struct qd_quant_options *options, struct qd_quant_options *out)
{
	*out = *options;
	for (const struct qd_member *m = qd_quant_members; m->kind != QD_MEMBER_END; m++) {
		const char **text = (const char **)(void *)((char *)out + m->at);

		if (m->kind != QD_MEMBER_OPTIONAL_TEXT || *text == NULL)
			continue;
		*text = qd_arena_strdup(arena, *text);
		if (*text == NULL)
			return QD_ENOMEM;
	}
	return QD_OK;
}
