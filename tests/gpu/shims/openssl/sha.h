#pragma once

#include <stddef.h>

// For machines that have libcrypto 3 without its headers: the names of it that kvcore uses.
#define SHA256_DIGEST_LENGTH 32

extern "C" {

struct SHA256_CTX {
  unsigned int h[8];
  unsigned int bits_low, bits_high;
  unsigned int data[16];
  unsigned int num, digest_bytes;
};

int SHA256_Init(SHA256_CTX* context);
int SHA256_Update(SHA256_CTX* context, const void* data, size_t bytes);
int SHA256_Final(unsigned char* digest, SHA256_CTX* context);
}
