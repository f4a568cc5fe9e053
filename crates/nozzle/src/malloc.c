/* Settings of glibc's allocator, made before the first thread starts; docs/adr/0014 has the reasons. */

#include <malloc.h>
#include <unistd.h>

__attribute__((constructor)) static void set_up_malloc(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    mallopt(M_ARENA_MAX, cores < 2 ? 2 : (int)cores);
}
