// For tests: a cluster's authority, and certificates that it signs, as PEM files in a folder of their own.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "base/check.h"
#include "net/tls.h"

namespace baton::net {

class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name)
      : folder_(std::filesystem::temp_directory_path() /
                ("baton-authority-" + std::to_string(getpid()) + "-" + name)),
        key_(make_key()),
        certificate_(make(name, key_.get(), nullptr, 3600)) {
    std::filesystem::create_directories(folder_);
    write(authorities(), [&](FILE* file) { return PEM_write_X509(file, certificate_.get()); });
  }
  ~TestAuthority() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  std::string authorities() const { return folder_ / "authorities.pem"; }

  // Files of a member of the cluster. `lasts_s` below 0: its certificate has expired.
  TlsFiles sign(const std::string& name, long lasts_s = 3600) const {
    const Key key = make_key();
    const Certificate certificate = make(name, key.get(), this, lasts_s);
    const TlsFiles files{.certificate = folder_ / (name + ".pem"),
                         .key = folder_ / (name + ".key"),
                         .authorities = authorities()};
    write(files.certificate, [&](FILE* file) { return PEM_write_X509(file, certificate.get()); });
    write(files.key, [&](FILE* file) {
      return PEM_write_PrivateKey(file, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    });
    chmod(files.key.c_str(), S_IRUSR | S_IWUSR);
    return files;
  }

 private:
  struct FreeKey {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };
  struct FreeCertificate {
    void operator()(X509* certificate) const { X509_free(certificate); }
  };
  using Key = std::unique_ptr<EVP_PKEY, FreeKey>;
  using Certificate = std::unique_ptr<X509, FreeCertificate>;

  static Key make_key() { return Key(EVP_EC_gen("P-256")); }

  // Signed by `authority`, or by itself: then it is one.
  static Certificate make(const std::string& name, EVP_PKEY* key, const TestAuthority* authority,
                          long lasts_s) {
    Certificate certificate(X509_new());
    X509* const made = certificate.get();
    X509_set_version(made, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made), static_cast<long>(std::hash<std::string>()(name) >> 2));
    X509_gmtime_adj(X509_getm_notBefore(made), -7200);
    X509_gmtime_adj(X509_getm_notAfter(made), lasts_s);
    X509_set_pubkey(made, key);
    X509_NAME* const subject = X509_get_subject_name(made);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(
        made, authority == nullptr ? subject : X509_get_subject_name(authority->certificate_.get()));
    X509_EXTENSION* const is_authority = X509V3_EXT_conf_nid(
        nullptr, nullptr, NID_basic_constraints, authority == nullptr ? "critical,CA:TRUE" : "CA:FALSE");
    X509_add_ext(made, is_authority, -1);
    X509_EXTENSION_free(is_authority);
    CHECK(X509_sign(made, authority == nullptr ? key : authority->key_.get(), EVP_sha256()) != 0,
          "X509_sign");
    return certificate;
  }

  template <class Write>
  static void write(const std::string& path, const Write& write_to) {
    FILE* const file = fopen(path.c_str(), "w");
    CHECK(file != nullptr && write_to(file) == 1, "{}", path);
    fclose(file);
  }

  std::filesystem::path folder_;
  Key key_;
  Certificate certificate_;
};

}  // namespace baton::net
