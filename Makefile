# Forwards to CMake, CTest and tools/. The release build lies in build/, others in build-NAME/.
PREFIX ?= /usr/local
TEST = ctest --output-on-failure --test-dir

all:
	cmake --preset release >/dev/null
	cmake --build build

# Install what is missing (apt), build, and run every test: under ten minutes on two cores.
check: deps-build layers all
	$(TEST) build

# From a Debian package of prose to a trained model that writes: about five minutes more.
demo: deps-build deps-demo all
	tools/demo

install:
	cmake --preset release -DCMAKE_INSTALL_PREFIX=$(abspath $(PREFIX)) >/dev/null
	cmake --build build
	cmake --install build

# A Debian package, build-package/mhmoe_VERSION_ARCHITECTURE.deb; and its trial in a clean system (root; five minutes).
package: deps-build deps-package
	cmake --preset package >/dev/null
	cmake --build build-package
	cd build-package && cpack

package-test: package deps-package-test
	tests/package.sh build-package/mhmoe_*.deb

# A build without what can be left out, beside the whole one.
bare: deps-build all
	cmake --preset bare >/dev/null
	cmake --build build-bare
	tests/cli/bare.sh build build-bare

# Every test under the sanitizers, but for one that measures how well a model learns; the book's models learn less.
asan: deps-build
	cmake --preset asan >/dev/null
	cmake --build build-asan
	BOOK_IN_HASTE=1 $(TEST) build-asan -E cli_precision

# With clang's OpenMP and archer, which tells ThreadSanitizer where OpenMP's threads wait for one another. Left out is
# what has one thread or would take too long; what brings an allocator of its own is not built (docs/testing.md).
tsan: deps-build deps-dev
	cmake --preset tsan >/dev/null
	cmake --build build-tsan
	OMP_NUM_THREADS=2 OMP_TOOL_LIBRARIES=$(firstword $(wildcard /usr/lib/llvm-*/lib/libarcher.so)) \
	TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
	$(TEST) build-tsan -E '^fuzz|_(portable|avx2|avx512)$$|^cli_(book|precision|resume)$$'

# A short training under valgrind.
valgrind: deps-build deps-dev all
	tests/cli/valgrind.sh build

# What clang-tidy (.clang-tidy) and gcc -fanalyzer find: nothing.
tidy: deps-build deps-dev
	cmake --preset clang >/dev/null
	cmake --build build-clang --target commit
	tools/tidy build-clang
	cmake --preset analyzer >/dev/null
	cmake --build build-analyzer --target mhmoe-program

# Each reader against libFuzzer's inputs for FUZZ_SECONDS, under the sanitizers (docs/testing.md).
FUZZ_SECONDS ?= 60
fuzz: deps-build deps-dev
	cmake --preset fuzz >/dev/null
	cmake --build build-fuzz --target fuzz
	tests/fuzz/run build-fuzz $(FUZZ_SECONDS)

# A run that is killed 200 times, half of them inside writes, ends in the same bytes: ten minutes or more.
kills: all
	cmake --build build --target faults_files
	bash tests/cli/resume.sh $(CURDIR)/build 200

# Our files read by other people's programs (Python, in .venv).
interop: deps-build deps-dev all
	tests/interop/run build

# Ratios to what the processor can do and to rivals: five minutes or more, and truest on an idle machine.
bench: all
	OMP_PROC_BIND=true build/mhmoe bench --csv bench/results

# The same training steps by PyTorch in the same run; a quarter of an hour or more.
bench-peers: deps-peers all
	/usr/bin/python3 bench/peers/step.py

# By PyPI's current PyTorch, in bench/peers/.venv: 2.9 GB to fetch and 5.4 GB on disk, for its x86 builds hold CUDA.
bench-peers-current: deps-dev all
	[ -e bench/peers/.venv/bin/pip ] || /usr/bin/python3 -m venv bench/peers/.venv
	bench/peers/.venv/bin/pip install --quiet torch numpy
	bench/peers/.venv/bin/python bench/peers/step.py

# Peak memory of training runs beside what `mhmoe info` says.
bench-memory: all
	bench/memory.py

format: deps-dev
	tools/format

layers:
	tools/layers

docs: all
	build/mhmoe config --markdown > docs/config.md

deps-%:
	tools/deps $*

# Ninja runs in parallel; these steps are in order.
.NOTPARALLEL:
.PHONY: all check demo install package package-test bare asan tsan valgrind tidy fuzz kills interop docs format layers \
        bench bench-peers bench-peers-current bench-memory
