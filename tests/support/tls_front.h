// A TLS server on this machine that passes what it is sent to a plain one, with a certificate of
// its own that nobody trusts unless told.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <list>
#include <stdexcept>
#include <string>
#include <thread>

namespace qalof::testing {

class TlsFront {
 public:
  /// behind: port of the plain server. Writes the certificate, for 127.0.0.1, to a PEM file.
  TlsFront(int behind, const std::string& certificate_file) : behind_(behind) {
    context_ = SSL_CTX_new(TLS_server_method());
    EVP_PKEY* const key = EVP_EC_gen("P-256");
    X509* const certificate = make_certificate(key);
    if (SSL_CTX_use_certificate(context_, certificate) != 1 ||
        SSL_CTX_use_PrivateKey(context_, key) != 1) {
      throw std::runtime_error("no TLS");
    }
    std::FILE* const file = std::fopen(certificate_file.c_str(), "w");
    PEM_write_X509(file, certificate);
    std::fclose(file);
    X509_free(certificate);
    EVP_PKEY_free(key);
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener_, 16) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("no loopback server");
    }
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~TlsFront() {
    is_ending_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
    for (std::thread& thread : threads_) thread.join();
    SSL_CTX_free(context_);
  }
  TlsFront(const TlsFront&) = delete;
  TlsFront& operator=(const TlsFront&) = delete;
  int port() const { return port_; }

 private:
  static sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    return address;
  }

  static X509* make_certificate(EVP_PKEY* key) {
    X509* const certificate = X509_new();
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME* const name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("fake hub"), -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    X509_EXTENSION* const names =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
    X509_add_ext(certificate, names, -1);
    X509_EXTENSION_free(names);
    X509_sign(certificate, key, EVP_sha256());
    return certificate;
  }

  void accept_all() {
    for (;;) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (is_ending_ || fd < 0) {
        if (fd >= 0) ::close(fd);
        return;
      }
      threads_.emplace_back([this, fd] { relay(fd); });
    }
  }

  void relay(int fd) {
    SSL* const tls = SSL_new(context_);
    SSL_set_fd(tls, fd);
    const int plain = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = loopback(behind_);
    if (SSL_accept(tls) == 1 &&
        ::connect(plain, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      char part[16384];
      bool is_open = true;
      while (is_open && !is_ending_) {
        pollfd ends[2] = {{fd, POLLIN, 0}, {plain, POLLIN, 0}};
        if (SSL_pending(tls) == 0 && ::poll(ends, 2, 20) <= 0) continue;
        if (SSL_pending(tls) > 0 || ends[0].revents != 0) {
          const int got = SSL_read(tls, part, sizeof part);
          is_open = got > 0 && ::send(plain, part, static_cast<std::size_t>(got), MSG_NOSIGNAL) > 0;
        }
        if (is_open && ends[1].revents != 0) {
          const ssize_t got = ::recv(plain, part, sizeof part, 0);
          is_open = got > 0 && SSL_write(tls, part, static_cast<int>(got)) > 0;
        }
      }
    }
    SSL_free(tls);
    ::close(plain);
    ::close(fd);
  }

  int behind_;
  SSL_CTX* context_ = nullptr;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> is_ending_ = false;
  std::list<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace qalof::testing
