// Debian's user-mode-linux keeps 2696 bytes of a processor's extended state, which was
// all there was before AMX. Linux (6.18, say) takes back only the whole of it, 11008
// bytes where there is AMX, and refuses less with EFAULT: the guest's first process dies
// with "ptrace set fp regs failed, errno = 14". Preloaded, this fills up what is missing
// with zeros: components that are not in use. On other processors it changes nothing.
//
// One process calls it, on one thread, and is not preempted: the area is static because
// that process's stacks are small.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long call(enum __ptrace_request, pid_t, void *, void *);

static char area[1 << 16] __attribute__((aligned(64)));

// The bits in the header's first word of the components that lie within the first n
// bytes of the area. All up to PKRU (9) do if n is UML's 2696; AMX (17, 18) does not.
static const uint64_t known = (1 << 10) - 1;
static const size_t header = 512;

long ptrace(enum __ptrace_request request, ...)
{
	static call *real;
	static size_t whole; // size of the host's area
	if (!real)
		real = (call *)dlsym(RTLD_NEXT, "ptrace");

	va_list ap;
	va_start(ap, request);
	pid_t pid = va_arg(ap, pid_t);
	void *addr = va_arg(ap, void *);
	void *data = va_arg(ap, void *);
	va_end(ap);

	if (request != PTRACE_SETREGSET || (uintptr_t)addr != NT_X86_XSTATE)
		return real(request, pid, addr, data);
	const struct iovec *part = data;
	if (!whole) {
		struct iovec all = {area, sizeof area};
		if (real(PTRACE_GETREGSET, pid, addr, &all) < 0)
			return -1;
		whole = all.iov_len;
	}
	if (part->iov_len >= whole)
		return real(request, pid, addr, data);
	memcpy(area, part->iov_base, part->iov_len);
	memset(area + part->iov_len, 0, whole - part->iov_len);
	uint64_t used;
	memcpy(&used, area + header, sizeof used);
	used &= known;
	memcpy(area + header, &used, sizeof used);
	struct iovec all = {area, whole};
	return real(request, pid, addr, &all);
}
