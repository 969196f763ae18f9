/* SPDX-License-Identifier: Apache-2.0
 *
 * Output that appears whole or not at all: commit, abandon, a killed writer, what it leaves, a full disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "base/outdir.h"
#include "base/outfile.h"
#include "base/outtemp.h"

static char root[200];

static const char *in_root(const char *name) {
    static char path[4][300];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, 300, "%s/%s", root, name);
    return p;
}

static bool is_ours(const char *name) {
    return strcmp(name, "config.json") == 0 || strcmp(name, "model.safetensors") == 0;
}

static int count_entries(const char *path) {
    int n = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static void assert_content(const char *path, const char *text) {
    mapfile m;
    nib_error err;
    assert_int_equal(mapfile_open(&m, path, &err), NIB_OK);
    assert_int_equal(m.size, strlen(text));
    assert_memory_equal(m.bytes, text, m.size);
    mapfile_close(&m);
}

static void write_text(const char *path, const char *text) {
    outfile *f;
    nib_error err;
    assert_int_equal(outfile_open(&f, path, &err), NIB_OK);
    assert_int_equal(outfile_write(f, text, strlen(text), &err), NIB_OK);
    assert_int_equal(outfile_commit(f, &err), NIB_OK);
}

static int setup(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    if (!base)
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(root, sizeof root, "%s/nibble-outfile-XXXXXX", base);
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command) == 0 ? 0 : -1;
}

static void test_file(void **state) {
    (void)state;
    outfile *f;
    nib_error err;
    const char *path = in_root("a");
    assert_int_equal(outfile_open(&f, path, &err), NIB_OK);
    assert_int_equal(outfile_write(f, "hello", 5, &err), NIB_OK);
    assert_int_equal(access(path, F_OK), -1); /* not yet */
    char *large = mem_array(3 << 20, 1);
    assert_non_null(large);
    assert_int_equal(outfile_write(f, large, 3 << 20, &err), NIB_OK);
    assert_int_equal(outfile_write(f, "end", 3, &err), NIB_OK);
    assert_int_equal(outfile_size(f), (3 << 20) + 8);
    assert_int_equal(outfile_commit(f, &err), NIB_OK);
    mapfile m;
    assert_int_equal(mapfile_open(&m, path, &err), NIB_OK);
    assert_int_equal(m.size, (3 << 20) + 8);
    assert_memory_equal(m.bytes, "hello\0\0", 7);
    assert_memory_equal(m.bytes + m.size - 4, "\0end", 4);
    mapfile_close(&m);
    mem_free(large);
    write_text(path, "again"); /* replaces */
    assert_content(path, "again");

    assert_int_equal(outfile_open(&f, path, &err), NIB_OK);
    assert_int_equal(outfile_write(f, "lost", 4, &err), NIB_OK);
    outfile_abandon(f);
    outfile_abandon(NULL);
    assert_content(path, "again");
    assert_int_equal(count_entries(root), 1);
}

static void test_refused_names(void **state) {
    (void)state;
    outfile *f;
    outdir *d;
    nib_error err;
    assert_int_equal(outfile_open(&f, root, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "a directory"));
    assert_int_equal(outfile_open(&f, in_root("no/such/file"), &err), NIB_IO);
    assert_int_equal(outfile_open(&f, "/dev/null", &err), NIB_BAD_ARGUMENT);
    assert_int_equal(outfile_open(&f, in_root("x/"), &err), NIB_BAD_ARGUMENT);
    assert_int_equal(outdir_open(&d, ".", is_ours, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(outdir_open(&d, "/", is_ours, NULL, &err), NIB_BAD_ARGUMENT);
    write_text(in_root("plain"), "x");
    assert_int_equal(outdir_open(&d, in_root("plain"), is_ours, NULL, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "no directory"));
}

static void make_model(const char *name, const char *text) {
    outdir *d;
    nib_error err;
    char path[512];
    assert_int_equal(outdir_open(&d, in_root(name), is_ours, NULL, &err), NIB_OK);
    snprintf(path, sizeof path, "%s/config.json", outdir_path(d));
    write_text(path, text);
    assert_int_equal(outdir_commit(d, &err), NIB_OK);
}

static void test_directory(void **state) {
    (void)state;
    outdir *d;
    nib_error err;
    make_model("m", "one");
    assert_content(in_root("m/config.json"), "one");
    make_model("m/", "two"); /* a model is replaced */
    assert_content(in_root("m/config.json"), "two");
    assert_int_equal(count_entries(root), 1);
    assert_int_equal(outdir_open(&d, in_root("m"), is_ours, NULL, &err), NIB_OK);
    outdir_abandon(d);
    outdir_abandon(NULL);
    assert_content(in_root("m/config.json"), "two");

    assert_int_equal(outdir_open(&d, in_root("m"), is_ours, "model.safetensors", &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "has no model.safetensors, which says that nibble wrote it"));
    write_text(in_root("m/model.safetensors"), "{}");
    assert_int_equal(outdir_open(&d, in_root("m"), is_ours, "model.safetensors", &err), NIB_OK);
    outdir_abandon(d);

    assert_int_equal(mkdir(in_root("empty"), 0777), 0);
    make_model("empty", "three");
    assert_int_equal(mkdir(in_root("mine"), 0777), 0);
    write_text(in_root("mine/letter.txt"), "dear");
    assert_int_equal(outdir_open(&d, in_root("mine"), is_ours, NULL, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "not a model directory"));
    write_text(in_root("mine/config.json"), "{}");
    assert_int_equal(mkdir(in_root("mine/photos"), 0777), 0);
    assert_int_equal(outdir_open(&d, in_root("mine"), is_ours, NULL, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "holds \"letter.txt\", which nibble does not write"));
    assert_content(in_root("mine/letter.txt"), "dear");
    assert_int_equal(unlink(in_root("mine/letter.txt")), 0);
    assert_int_equal(outdir_open(&d, in_root("mine"), is_ours, NULL, &err),
                     NIB_BAD_ARGUMENT); /* a directory inside */
    assert_int_equal(rmdir(in_root("mine/photos")), 0);
    assert_int_equal(symlink("config.json", in_root("mine/model.safetensors")), 0);
    assert_int_equal(outdir_open(&d, in_root("mine"), is_ours, NULL, &err), NIB_BAD_ARGUMENT); /* a link */
    assert_int_equal(unlink(in_root("mine/model.safetensors")), 0);
    assert_int_equal(outdir_open(&d, in_root("mine"), is_ours, NULL, &err), NIB_OK);
    write_text(in_root("mine/late.txt"), "dear"); /* it came meanwhile */
    assert_int_equal(outdir_commit(d, &err), NIB_BAD_ARGUMENT);
    assert_content(in_root("mine/late.txt"), "dear");
}

/* A killed writer leaves nothing under the final name, and what it leaves goes with the next writer. */
static void test_killed(void **state) {
    (void)state;
    for (int directory = 0; directory < 2; directory++) {
        const char *path = in_root("killed");
        int ready[2];
        assert_int_equal(pipe(ready), 0);
        pid_t child = fork();
        if (child == 0) {
            outfile *f = NULL;
            outdir *d = NULL;
            if (directory)
                outdir_open(&d, path, is_ours, NULL, NULL);
            else if (outfile_open(&f, path, NULL) == NIB_OK)
                outfile_write(f, "half", 4, NULL);
            (void)!write(ready[1], "x", 1);
            pause();
            _exit(0);
        }
        char c;
        int status;
        assert_int_equal(read(ready[0], &c, 1), 1);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(count_entries(root), 1); /* the living writer's temporary */
        outfile *other;
        assert_int_equal(outfile_open(&other, path, NULL), NIB_OK); /* leaves the living alone */
        assert_int_equal(count_entries(root), 2);
        outfile_abandon(other);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        close(ready[0]);
        close(ready[1]);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(count_entries(root), 1);
        write_text(path, "whole");
        assert_int_equal(count_entries(root), 1); /* only the file */
        assert_content(path, "whole");
        assert_int_equal(unlink(path), 0);
    }
}

/* renameat2 and rename of the program under test: a file system that does not exchange names, and a kill at
 * the N-th rename. */
static bool exchanges = true;
static int die_at_rename = -1;

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    if (!exchanges && flags) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
}

int rename(const char *from, const char *to) {
    if (die_at_rename-- == 0)
        _exit(9);
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* Where names cannot be exchanged, the old directory outlives a kill between the renames, and the run after.
 */
static void test_without_exchange(void **state) {
    (void)state;
    int status;
    exchanges = false;
    make_model("m", "one");
    make_model("m", "two");
    assert_content(in_root("m/config.json"), "two");
    assert_int_equal(count_entries(root), 1);
    pid_t child = fork();
    if (child == 0) {
        outdir *d;
        if (outdir_open(&d, in_root("m"), is_ours, NULL, NULL) != NIB_OK)
            _exit(1);
        die_at_rename = 1;
        outdir_commit(d, NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), 9);
    assert_int_equal(access(in_root("m"), F_OK), -1);
    make_model("m", "three");
    assert_content(in_root("m/config.json"), "three");
    assert_content(in_root("m.nibble-old-1/config.json"), "two");
    assert_int_equal(count_entries(root), 2); /* the killed run's new one went */
    exchanges = true;
}

/* A second writer of the same name may clean up between a temporary's making and its lock. */
static void test_cleaning_up_beside_a_writer(void **state) {
    (void)state;
    const char *path = in_root("busy");
    pid_t child = fork();
    if (child == 0)
        for (;;)
            outtemp_remove_stale(path);
    for (int i = 0; i < 2000; i++) {
        outfile *f;
        outdir *d;
        nib_error err;
        assert_int_equal(outfile_open(&f, path, &err), NIB_OK);
        assert_int_equal(outfile_write(f, "x", 1, &err), NIB_OK);
        assert_int_equal(outfile_commit(f, &err), NIB_OK);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(outdir_open(&d, path, is_ours, NULL, &err), NIB_OK);
        assert_int_equal(access(outdir_path(d), F_OK), 0);
        outdir_abandon(d);
    }
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void test_full_disk(void **state) {
    (void)state;
    struct rlimit before, small = {1 << 20, 1 << 20};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    outfile *f;
    nib_error err;
    char *large = mem_array(4 << 20, 1);
    assert_non_null(large);
    assert_int_equal(outfile_open(&f, in_root("big"), &err), NIB_OK);
    assert_int_equal(outfile_write(f, large, 4 << 20, &err), NIB_IO);
    assert_non_null(strstr(err.text, "size limit"));
    assert_int_equal(outfile_write(f, "x", 1, &err), NIB_IO); /* it sticks */
    assert_int_equal(outfile_commit(f, &err), NIB_IO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(count_entries(root), 0);
    mem_free(large);

    f = NULL; /* a device that is always full */
    if (access("/dev/full", W_OK) == 0 && symlink("/dev/full", in_root("link")) == 0)
        assert_int_equal(outfile_open(&f, in_root("link"), &err), NIB_BAD_ARGUMENT);
}

/* A program that must end at once removes what it was writing, and nothing that is whole. */
static void test_removing_what_lives(void **state) {
    (void)state;
    outfile *f;
    outdir *d;
    nib_error err;
    write_text(in_root("whole"), "whole");
    assert_int_equal(outfile_open(&f, in_root("f"), &err), NIB_OK);
    assert_int_equal(outdir_open(&d, in_root("d"), is_ours, NULL, &err), NIB_OK);
    char inside[512];
    for (int i = 0; i < 300; i++) { /* more names than one system call gives */
        snprintf(inside, sizeof inside, "%s/config-%d.json", outdir_path(d), i);
        write_text(inside, "{}");
    }
    assert_int_equal(count_entries(root), 3);
    outtemp_remove_live();
    assert_int_equal(count_entries(root), 1);
    assert_content(in_root("whole"), "whole");
    outfile_abandon(f);
    outdir_abandon(d);
}

/* Bytes from a map whose file was cut short meanwhile. */
static void test_unreadable_bytes(void **state) {
    (void)state;
    const size_t n = 4 << 20;
    void *nothing = mmap(NULL, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    outfile *f;
    nib_error err;
    assert_true(nothing != MAP_FAILED);
    assert_int_equal(outfile_open(&f, in_root("f"), &err), NIB_OK);
    assert_int_equal(outfile_write(f, nothing, n, &err), NIB_IO);
    assert_non_null(strstr(err.text, "was cut short"));
    outfile_abandon(f);
    assert_int_equal(munmap(nothing, n), 0);
}

static void test_failing_memory(void **state) {
    (void)state;
    nib_error err;
    for (long n = 0;; n++) {
        outdir *d = NULL;
        outfile *f = NULL;
        mem_fail_after(n);
        nib_status a = outdir_open(&d, in_root("d"), is_ours, NULL, &err);
        nib_status b = outfile_open(&f, in_root("f"), &err);
        if (b == NIB_OK)
            b = outfile_commit(f, &err);
        mem_fail_after(-1);
        outdir_abandon(d);
        assert_true(a == NIB_OK || a == NIB_NO_MEMORY);
        assert_true(b == NIB_OK || b == NIB_NO_MEMORY);
        if (a == NIB_OK && b == NIB_OK)
            break;
        assert_true(n < 100);
    }
    assert_int_equal(count_entries(root), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_exchange, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cleaning_up_beside_a_writer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removing_what_lives, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unreadable_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
