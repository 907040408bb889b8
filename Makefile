# quad: builds ./build/quad and its tests.
#
#   make                    the program, in $(BUILD)/quad
#   make test               installs what is missing, builds, runs every test; ends in one line of counts
#   make check              the same sources with warnings as errors, layer check, format check
#   make install PREFIX=    copies the program, its library, man pages and completion; honours DESTDIR
#   make man                man pages and completion alone, in $(BUILD)/share
#   make demo               the whole tool on the committed example
#   make V=1                with whole commands shown
#   make LIBTORCH=DIR       against an unpacked libtorch or a Python `torch` package instead of Debian's (own build folder)
#
# CC, CXX, CFLAGS, CXXFLAGS, LDFLAGS and BUILD may be given. Sources are found by wildcard.

LIBTORCH ?=
ifneq ($(LIBTORCH),)
BUILD ?= build/libtorch-$(shell cat '$(LIBTORCH)/build-version' 2>/dev/null || printf %s '$(abspath $(LIBTORCH))' | cksum | cut -d' ' -f1)
endif
BUILD ?= build
PREFIX ?= /usr/local
CFLAGS ?= -O2 -g
CXXFLAGS ?= -O2 -g
WERROR ?=
AR := ar
OPENMP := -fopenmp

# V=1 shows whole commands.
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $(2))

WARN := -Wall -Wextra -Wshadow -Wwrite-strings -Wformat=2 $(WERROR)
C_WARN := $(WARN) -Wpedantic -Wvla -Wstrict-prototypes -Wmissing-prototypes
CPPFLAGS_ALL := -D_GNU_SOURCE -I. -I$(BUILD)/gen -MMD -MP $(CPPFLAGS)
C_ALL := -std=c11 $(OPENMP) -fno-math-errno -fno-trapping-math $(CPPFLAGS_ALL)
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

# ---- libtorch: Debian's, or the folder given ----
ifneq ($(LIBTORCH),)
TORCH_DIR := $(abspath $(LIBTORCH))
TORCH_ABI := $(shell grep -qs 'GLIBCXX_USE_CXX11_ABI=0' '$(TORCH_DIR)/share/cmake/Torch/TorchConfig.cmake' && echo 0 || echo 1)
TORCH_INC := -isystem $(TORCH_DIR)/include -isystem $(TORCH_DIR)/include/torch/csrc/api/include -D_GLIBCXX_USE_CXX11_ABI=$(TORCH_ABI)
TORCH_LIB := -L$(TORCH_DIR)/lib -Wl,-rpath,$(TORCH_DIR)/lib
else
TORCH_INC := -isystem /usr/include/torch/csrc/api/include
TORCH_LIB :=
endif
# Kept although nothing refers to it: a CUDA build registers its device through it.
TORCH_LIB += -Wl,--no-as-needed -ltorch -Wl,--as-needed -ltorch_cpu -lc10

LIBS := -lprotobuf-c -ljansson -lpng -ljpeg -lwebp -lpcre2-8 -lz -lxxhash -lutf8proc -ldnnl -ldl -lpthread -lm

# ---- sources ----
CMD_SRC := $(sort $(wildcard cmd/*.c))
LIB_SRC := $(sort $(wildcard lib/*/*.c quant/*.c distill/*.c export/*/*.c))
SHIM_SRC := $(sort $(wildcard lib/torch/*.cc))
# What cannot run under the sanitizers, because libtorch cannot: files over it. A test links whatever of the rest it uses, and the
# parser of options.
TORCH_SRC := $(sort $(filter lib/torch/%,$(LIB_SRC)) $(shell grep -lE '^.include "(lib/torch/|distill/internal)' $(LIB_SRC) /dev/null))
PLAIN_SRC := $(filter-out $(TORCH_SRC),$(LIB_SRC)) cmd/options.c
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))
UNIT_TORCH := $(filter tests/unit/test_torch_%,$(UNIT_SRC))
UNIT_PLAIN := $(filter-out $(UNIT_TORCH),$(UNIT_SRC))
# Takes malloc's place in the programs that it is linked into: for tests of memory that runs out, not for all.
UNIT_MALLOC := tests/unit/failing_malloc.c
# Helpers shared by tests: tests/unit/*.c that are no test_*.c.
UNIT_HELP := $(filter-out $(UNIT_SRC) $(UNIT_MALLOC),$(sort $(wildcard tests/unit/*.c)))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
# What people have, beside the project; skipped where it is not.
CASES ?= ../shared/cases
SCRIPTS := $(sort $(wildcard tests/golden/*.sh tests/e2e/*.sh))
# Everything whose layout .clang-format decides.
FORMATTED = $(CMD_SRC) $(LIB_SRC) $(SHIM_SRC) $(UNIT_SRC) $(UNIT_HELP) $(UNIT_MALLOC) $(FUZZ_SRC) $(EXAMPLE_SRC) $(BENCH_SRC) tests/fuzz/replay.c $(filter-out build/%,$(sort $(wildcard */*.h */*/*.h)))

OBJ := $(BUILD)/obj
SAN := $(BUILD)/san
GEN := $(BUILD)/gen/onnx.pb-c.h $(BUILD)/gen/version.h $(BUILD)/gen/shim-calls.h
CMD_OBJ := $(CMD_SRC:%.c=$(OBJ)/%.o)
# The program has the loader where tests have the shim itself.
LOAD_OBJ := $(OBJ)/lib/torch/load.o
LIB_OBJ := $(filter-out $(LOAD_OBJ),$(LIB_SRC:%.c=$(OBJ)/%.o)) $(OBJ)/gen/onnx.pb-c.o
SHIM_OBJ := $(SHIM_SRC:%.cc=$(OBJ)/%.pic.o)
SAN_OBJ := $(PLAIN_SRC:%.c=$(SAN)/%.o) $(SAN)/gen/onnx.pb-c.o
TEST_TORCH := $(UNIT_TORCH:tests/unit/%.c=$(BUILD)/test/%)
TEST_PLAIN := $(UNIT_PLAIN:tests/unit/%.c=$(BUILD)/test/%)
TEST_FUZZ := $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/test/%)

.PHONY: all check test test-run test-torch test-clients tests demo fuzz install uninstall clean format
.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:

all: $(BUILD)/quad $(BUILD)/scenes

# ---- what is made before anything compiles ----
ONNX_PROTO ?= $(firstword $(wildcard /usr/include/onnx/onnx.proto /usr/include/onnx/onnx-ml.proto) onnx.proto)
$(BUILD)/gen/onnx.pb-c.c: $(wildcard $(ONNX_PROTO)) scripts/install-deps.sh
	@scripts/install-deps.sh --check
	@mkdir -p $(@D)
	@cp $(ONNX_PROTO) $(@D)/onnx.proto
	$(call say,GEN,$@)
	$(Q)protoc-c -I$(@D) --c_out=$(@D) onnx.proto
	@touch $@
$(BUILD)/gen/onnx.pb-c.h: $(BUILD)/gen/onnx.pb-c.c ;

# QUAD_VERSION; touched only when it changes.
VERSION := $(shell git describe --tags --dirty 2>/dev/null || echo 0.1.0)
$(BUILD)/gen/version.h: FORCE
	@mkdir -p $(@D)
	@printf '#define QUAD_VERSION "%s"\n' '$(VERSION)' | cmp -s - $@ || printf '#define QUAD_VERSION "%s"\n' '$(VERSION)' >$@
.PHONY: FORCE
FORCE:

# One row per function of the shim, for the loader.
$(BUILD)/gen/shim-calls.h: lib/torch/shim.h scripts/shim-calls.awk
	@mkdir -p $(@D)
	$(call say,GEN,$@)
	$(Q)awk -v own='qt_live qt_free qt_set_threads qt_set_device qt_on_cpu' -f scripts/shim-calls.awk $< >$@

# ---- objects ----
$(LOAD_OBJ): $(BUILD)/gen/shim-calls.h
$(OBJ)/lib/engine/%.o $(OBJ)/lib/kernel/%.o $(OBJ)/lib/math/%.o $(OBJ)/lib/io/%.o $(OBJ)/lib/ir/encoding%.o $(OBJ)/quant/%.o: CFLAGS += -O3
# Multiply and add in one instruction: for sums of products, never for what has to equal other implementations bit for bit.
# (psabi: such vectors are passed differently per instruction set, but every function that takes one is inlined.)
VECTOR_OBJ := lib/kernel/attention.o lib/kernel/elementwise.o lib/kernel/norm.o lib/kernel/product_gradient.o lib/kernel/short_sums.o lib/kernel/softmax.o \
	lib/kernel/winograd.o
$(addprefix $(OBJ)/,$(VECTOR_OBJ)): CFLAGS += -ffp-contract=fast -Wno-psabi
$(addprefix $(SAN)/,$(VECTOR_OBJ)): SANITIZE += -Wno-psabi
$(OBJ)/%.o: %.c | $(GEN)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(C_ALL) $(C_WARN) $(CFLAGS) -c -o $@ $<
$(OBJ)/%.pic.o: %.cc | $(GEN)
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(Q)$(CXX) -std=c++17 -fPIC $(OPENMP) $(CPPFLAGS_ALL) $(TORCH_INC) $(WARN) $(CXXFLAGS) -c -o $@ $<
$(OBJ)/gen/%.o: $(BUILD)/gen/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) -std=c11 -w -I$(BUILD)/gen $(CFLAGS) -c -o $@ $<
$(SAN)/%.o: %.c | $(GEN)
	@mkdir -p $(@D)
	$(call say,SAN,$<)
	$(Q)$(CC) $(C_ALL) $(C_WARN) -O1 -g $(SANITIZE) -c -o $@ $<
$(SAN)/gen/%.o: $(BUILD)/gen/%.c
	@mkdir -p $(@D)
	$(call say,SAN,$<)
	$(Q)$(CC) -std=c11 -w -I$(BUILD)/gen -O1 -g $(SANITIZE) -c -o $@ $<

$(OBJ)/libquad.a: $(LIB_OBJ)
	@rm -f $@
	@$(AR) rcs $@ $^
$(OBJ)/libhelp.a: $(UNIT_HELP:%.c=$(OBJ)/%.o)
	@rm -f $@
	@$(AR) rcs $@ $^
$(SAN)/libhelp.a: $(UNIT_HELP:%.c=$(SAN)/%.o)
	@rm -f $@
	@$(AR) rcs $@ $^
$(SAN)/libquad.a: $(SAN_OBJ)
	@rm -f $@
	@$(AR) rcs $@ $^

# ---- programs ----
# All of the library is in the program and open to what it loads, which is the shim, beside it or in ../lib/quad.
$(BUILD)/quad: $(CMD_OBJ) $(LOAD_OBJ) $(OBJ)/libquad.a | $(BUILD)/libquad-torch.so
	$(call say,LINK,$@)
	$(Q)$(CC) $(OPENMP) -rdynamic $(LDFLAGS) -Wl,-rpath,'$$ORIGIN:$$ORIGIN/../lib/quad' -o $@ $(CMD_OBJ) $(LOAD_OBJ) \
		-Wl,--whole-archive $(OBJ)/libquad.a -Wl,--no-whole-archive $(LIBS)
$(BUILD)/libquad-torch.so: $(SHIM_OBJ)
	$(call say,LINK,$@)
	$(Q)$(CXX) -shared -Wl,-Bsymbolic-functions $(OPENMP) $(LDFLAGS) -o $@ $^ $(TORCH_LIB)

# Draws the example's data; needs nothing of libtorch.
EXAMPLE_SRC := $(sort $(wildcard scripts/example/*.c))
$(BUILD)/scenes: $(EXAMPLE_SRC:%.c=$(OBJ)/%.o) $(OBJ)/libquad.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(OPENMP) $(LDFLAGS) -o $@ $^ $(LIBS)

$(TEST_TORCH): $(BUILD)/test/%: $(OBJ)/tests/unit/%.o $(SHIM_OBJ) $(OBJ)/libhelp.a $(OBJ)/libquad.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(OPENMP) $(LDFLAGS) -o $@ $^ $(TORCH_LIB) $(LIBS) -lcmocka
$(filter $(BUILD)/test/test_out_of_memory%,$(TEST_PLAIN)): $(UNIT_MALLOC:%.c=$(SAN)/%.o)
$(TEST_PLAIN): $(BUILD)/test/%: $(SAN)/tests/unit/%.o $(SAN)/libhelp.a $(SAN)/libquad.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(OPENMP) $(SANITIZE) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS) -lcmocka
$(TEST_FUZZ): $(BUILD)/test/%: $(SAN)/tests/fuzz/%.o $(SAN)/tests/fuzz/replay.o $(SAN)/tests/unit/scratch.o $(SAN)/libquad.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(OPENMP) $(SANITIZE) $(LDFLAGS) -o $@ $^ $(LIBS)

# Measuring programs for scripts/bench.sh.
BENCH_SRC := $(sort $(wildcard scripts/bench/*.c))
$(BUILD)/bench-engine: $(BENCH_SRC:%.c=$(OBJ)/%.o) $(SHIM_OBJ) $(OBJ)/libquad.a
	$(call say,LINK,$@)
	$(Q)$(CXX) $(OPENMP) $(LDFLAGS) -o $@ $^ $(TORCH_LIB) $(LIBS) -lopenblas

# Long builds use every processor unless -j was given.
JOBS = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))

# ---- tests ----
tests: $(BUILD)/quad $(BUILD)/scenes $(TEST_PLAIN) $(TEST_TORCH) $(TEST_FUZZ)

# In two steps: what is found by wildcard is only there once the packages are.
test:
	@scripts/install-deps.sh --check-or-install
	@$(MAKE) --no-print-directory $(JOBS) test-run

test-run: tests
	@tests/run.sh --build $(BUILD) $(TEST_PLAIN) $(TEST_TORCH) $(TEST_FUZZ) scripts/check-layers.sh $(SCRIPTS) $(CASES)

# Only what executes graphs: for trying another libtorch.
test-torch: $(BUILD)/quad $(BUILD)/scenes $(TEST_TORCH)
	@tests/run.sh --build $(BUILD) $(TEST_TORCH) $(SCRIPTS)

# The programs that quad's files come from and go to, where PYTHON has them.
PYTHON ?= python3
test-clients: $(BUILD)/quad
	@PYTHON=$(PYTHON) QUAD=$(BUILD)/quad tests/clients/run.sh

# Search, not replay: one libFuzzer program per target, to be run by hand as $(BUILD)/fuzz/NAME tests/fuzz/corpus/NAME.
fuzz:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz CC=clang OPENMP=-Wno-unknown-pragmas SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all' fuzz-link
.PHONY: fuzz-link
fuzz-link: $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/%)
$(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/%): $(BUILD)/%: $(SAN)/tests/fuzz/%.o $(SAN)/tests/unit/scratch.o $(SAN)/libquad.a
	clang -fsanitize=fuzzer,address,undefined -o $@ $^ $(LIBS)

check:
	@$(MAKE) --no-print-directory $(JOBS) BUILD=$(BUILD)/check WERROR=-Werror check-run
.PHONY: check-run
check-run: $(CMD_OBJ) $(LIB_OBJ) $(LOAD_OBJ) $(SHIM_OBJ) $(UNIT_SRC:%.c=$(OBJ)/%.o)
	@scripts/check-layers.sh $(BUILD)
	@if command -v clang-format >/dev/null; then \
		clang-format --dry-run -Werror $(FORMATTED); \
	else echo 'clang-format is not installed: layout not checked'; fi

format:
	clang-format -i $(FORMATTED)

# ---- for people ----
demo:
	@scripts/install-deps.sh --check-or-install
	@$(MAKE) --no-print-directory $(JOBS) all
	@QUAD=$(BUILD)/quad scripts/demo.sh

# ---- what the program says of itself: man pages and completion, where they are installed ----
COMMANDS := $(shell sed -nE 's/^\tX.([a-z]*), .*/\1/p' cmd/cmd.h)
SHARE := $(COMMANDS:%=man/man1/quad-%.1) man/man1/quad.1 man/man5/quad-json.5 bash-completion/completions/quad zsh/site-functions/_quad
man: $(SHARE:%=$(BUILD)/share/%)
.PHONY: man
$(BUILD)/share/man/man1/quad.1: WORDS = man
$(BUILD)/share/man/man1/quad-%.1: WORDS = man $(patsubst quad-%.1,%,$(@F))
$(BUILD)/share/man/man5/quad-json.5: WORDS = man json
$(BUILD)/share/bash-completion/completions/quad: WORDS = bash
$(BUILD)/share/zsh/site-functions/_quad: WORDS = zsh
$(SHARE:%=$(BUILD)/share/%): $(BUILD)/quad
	@mkdir -p $(@D)
	$(call say,GEN,$@)
	$(Q)$(BUILD)/quad help $(WORDS) >$@

install: all man
	install -D -m 755 $(BUILD)/quad $(DESTDIR)$(PREFIX)/bin/quad
	install -D -m 644 $(BUILD)/libquad-torch.so $(DESTDIR)$(PREFIX)/lib/quad/libquad-torch.so
	for file in $(SHARE); do install -D -m 644 $(BUILD)/share/$$file $(DESTDIR)$(PREFIX)/share/$$file || exit 1; done
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/quad $(DESTDIR)$(PREFIX)/lib/quad/libquad-torch.so $(SHARE:%=$(DESTDIR)$(PREFIX)/share/%)
	-rmdir $(DESTDIR)$(PREFIX)/lib/quad
clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj $(BUILD)/san -name '*.d' 2>/dev/null)
