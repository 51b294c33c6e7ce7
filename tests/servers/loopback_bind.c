/* Preloaded into servers that cannot be told an address to listen on (Orthanc, dcmtk's storescp):
   a bind to "any" address becomes a bind to loopback, so that a test opens no port to the network. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>

int bind(int socket_fd, const struct sockaddr *address, socklen_t length) {
  int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  if (address->sa_family == AF_INET && length >= sizeof v4) {
    v4 = *(const struct sockaddr_in *)address;
    if (v4.sin_addr.s_addr == htonl(INADDR_ANY)) v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return next(socket_fd, (struct sockaddr *)&v4, sizeof v4);
  }
  if (address->sa_family == AF_INET6 && length >= sizeof v6) {
    v6 = *(const struct sockaddr_in6 *)address;
    if (IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr)) v6.sin6_addr = in6addr_loopback;
    return next(socket_fd, (struct sockaddr *)&v6, sizeof v6);
  }
  return next(socket_fd, address, length);
}
