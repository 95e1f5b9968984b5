/* cable: joins two network namespaces by a wire that takes time.
 *
 *   cable ONE_WAY_MICROSECONDS NAMESPACE NAMESPACE
 *
 * For kernels without netem. Makes a tap device, lan0, in each namespace, and carries frames between them, each held for
 * the given time. Offloads stay on, so that a stream crosses as large frames and the carrying costs little CPU. It
 * neither drops nor limits: the rate is made by tbf at each device. Prints "ready" once both devices exist; they go away
 * when it ends. Needs root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "lan0"
#define SLOTS 8192u
/* A virtio header, an Ethernet header, and the largest IP packet. */
#define LARGEST (65536 + 64)
#define SECOND 1000000000ull

/* A frame under way, and when it has arrived. */
struct frame {
    uint64_t due;
    uint32_t length;
    unsigned char *bytes;
};

/* One direction. */
struct way {
    int from, to;
    uint64_t delay;
};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

/* Makes the device in a namespace; the process itself stays where it was. */
static int device_in(const char *namespace)
{
    char path[256];
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    int entry = open(path, O_RDONLY | O_CLOEXEC);
    if (entry < 0 || setns(entry, CLONE_NEWNET))
        fail(path);
    close(entry);
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (device < 0)
        fail("/dev/net/tun");
    struct ifreq request = {0};
    strncpy(request.ifr_name, DEVICE, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(device, TUNSETIFF, &request) || ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
        fail(DEVICE);
    if (home < 0 || setns(home, CLONE_NEWNET))
        fail("/proc/self/ns/net");
    close(home);
    return device;
}

static void *carry(void *argument)
{
    const struct way *way = argument;
    struct frame *ring = calloc(SLOTS, sizeof *ring);
    unsigned char *arrived = malloc(LARGEST);
    uint32_t first = 0, end = 0; /* they only grow; the place is modulo SLOTS */
    if (!ring || !arrived)
        fail("memory");
    prctl(PR_SET_TIMERSLACK, 1);
    for (;;) {
        while (end - first < SLOTS) {
            ssize_t length = read(way->from, arrived, LARGEST);
            if (length <= 0)
                break;
            struct frame *frame = &ring[end++ % SLOTS];
            frame->due = now() + way->delay;
            frame->length = (uint32_t)length;
            frame->bytes = malloc((size_t)length);
            if (!frame->bytes)
                fail("memory");
            memcpy(frame->bytes, arrived, (size_t)length);
        }
        for (uint64_t time = now(); first != end && ring[first % SLOTS].due <= time; first++) {
            struct frame *frame = &ring[first % SLOTS];
            /* A device that is down takes nothing: the frame is lost, as on a real wire. */
            (void)!write(way->to, frame->bytes, frame->length);
            free(frame->bytes);
        }
        struct pollfd wanted = {.fd = way->from, .events = end - first < SLOTS ? POLLIN : 0};
        struct timespec left = {0}, *until = NULL;
        if (first != end) {
            uint64_t due = ring[first % SLOTS].due, time = now();
            uint64_t wait = due > time ? due - time : 0;
            left.tv_sec = (time_t)(wait / SECOND);
            left.tv_nsec = (long)(wait % SECOND);
            until = &left;
        }
        ppoll(&wanted, 1, until, NULL);
        if (wanted.revents & (POLLERR | POLLHUP))
            usleep(1000);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: cable ONE_WAY_MICROSECONDS NAMESPACE NAMESPACE\n");
        return 2;
    }
    uint64_t delay = (uint64_t)(atof(arguments[1]) * 1000.0);
    int one = device_in(arguments[2]), other = device_in(arguments[3]);
    struct way there = {one, other, delay}, back = {other, one, delay};
    pthread_t first, second;
    if (pthread_create(&first, NULL, carry, &there) || pthread_create(&second, NULL, carry, &back))
        fail("thread");
    puts("ready");
    fflush(stdout);
    pthread_join(first, NULL);
    return 0;
}
