// HKDF-SHA256 (RFC 5869) in one call: extract, then one block for each info. HMAC is the system's libcrypto, version 3 or
// later, found when this is imported; where it is not there the import fails, and mitai uses `cryptography` alone.
//
// What is derived leaves as bytes objects, the intermediate key is wiped, and a context lives for one call and is cleansed
// by libcrypto. Nothing here depends on the values of keys.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <string.h>

enum { BLOCK = 32, UTF8_STRING = 4 };  // OSSL_PARAM_UTF8_STRING

typedef struct { const char *key; unsigned int type; void *data; size_t size, returned; } Param;  // OSSL_PARAM
typedef struct { const unsigned char *data; Py_ssize_t size; } Bytes;

static void *(*mac_fetch)(void *, const char *, const char *);
static void *(*ctx_new)(void *);
static void *(*ctx_dup)(const void *);
static void (*ctx_free)(void *);
static int (*ctx_set)(void *, const Param *);
static int (*mac_init)(void *, const unsigned char *, size_t, const Param *);
static int (*mac_update)(void *, const unsigned char *, size_t);
static int (*mac_final)(void *, unsigned char *, size_t *, size_t);
static void (*cleanse)(void *, size_t);
static void *hmac_sha256;  // a context without a key, of which each call takes a copy

// Writes HMAC(key, first || second), BLOCK bytes.
static int hmac(void *ctx, Bytes key, Bytes first, Bytes second, unsigned char *out) {
    size_t size = 0;
    return mac_init(ctx, key.data, (size_t)key.size, NULL) == 1 &&
           mac_update(ctx, first.data, (size_t)first.size) == 1 &&
           mac_update(ctx, second.data, (size_t)second.size) == 1 &&
           mac_final(ctx, out, &size, BLOCK) == 1 && size == BLOCK;
}

static const unsigned char zeros[BLOCK];

static int as_bytes(PyObject *object, Bytes *bytes) {
    char *data;
    const int result = PyBytes_AsStringAndSize(object, &data, &bytes->size);
    bytes->data = (const unsigned char *)data;
    return result == 0;
}

static PyObject *derive(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    unsigned char prk[BLOCK];
    Bytes salt, material, info;
    const Bytes secret = {prk, BLOCK}, none = {zeros, 0}, counter = {(const unsigned char *)"\1", 1};
    if (count < 2) return PyErr_Format(PyExc_TypeError, "derive takes a salt and key material");
    if (!as_bytes(args[0], &salt) || !as_bytes(args[1], &material)) return NULL;
    if (salt.size == 0) salt = (Bytes){zeros, BLOCK};  // section 2.2
    PyObject *blocks = PyList_New(count - 2);
    if (blocks == NULL) return NULL;
    void *ctx = ctx_dup(hmac_sha256);
    int good = ctx != NULL && hmac(ctx, salt, material, none, prk);
    for (Py_ssize_t i = 2; good && i < count; i++) {
        PyObject *block = as_bytes(args[i], &info) ? PyBytes_FromStringAndSize(NULL, BLOCK) : NULL;
        good = block != NULL && hmac(ctx, secret, info, counter, (unsigned char *)PyBytes_AS_STRING(block));
        if (block != NULL) PyList_SET_ITEM(blocks, i - 2, block);
    }
    cleanse(prk, BLOCK);
    ctx_free(ctx);
    if (good) return blocks;
    Py_DECREF(blocks);
    return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_RuntimeError, "libcrypto refused HMAC");
}

static PyMethodDef methods[] = {
    {"derive", (PyCFunction)(void (*)(void))derive, METH_FASTCALL,
     "derive(salt, key_material, *infos): the blocks of HKDF-SHA256, 32 bytes for each info; all arguments are bytes."},
    {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "hkdf", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_hkdf(void) {
    void *libcrypto = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
    const struct { const char *name; void *at; } functions[] = {
        {"EVP_MAC_fetch", &mac_fetch},       {"EVP_MAC_CTX_new", &ctx_new},   {"EVP_MAC_CTX_dup", &ctx_dup},
        {"EVP_MAC_CTX_free", &ctx_free},     {"EVP_MAC_CTX_set_params", &ctx_set}, {"EVP_MAC_init", &mac_init},
        {"EVP_MAC_update", &mac_update},     {"EVP_MAC_final", &mac_final},   {"OPENSSL_cleanse", &cleanse},
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *found = libcrypto != NULL ? dlsym(libcrypto, functions[i].name) : NULL;
        if (found == NULL) return PyErr_Format(PyExc_ImportError, "libcrypto.so.3 with %s is not there", functions[i].name);
        memcpy(functions[i].at, &found, sizeof found);
    }
    char digest[] = "SHA256";
    const Param params[] = {{"digest", UTF8_STRING, digest, sizeof digest - 1, (size_t)-1}, {NULL, 0, NULL, 0, 0}};
    void *mac = mac_fetch(NULL, "HMAC", NULL);
    hmac_sha256 = mac != NULL ? ctx_new(mac) : NULL;
    void *trial = hmac_sha256 != NULL && ctx_set(hmac_sha256, params) == 1 ? ctx_dup(hmac_sha256) : NULL;
    const Bytes block = {zeros, BLOCK};
    unsigned char out[BLOCK];
    if (trial == NULL || !hmac(trial, block, block, block, out))
        return PyErr_Format(PyExc_ImportError, "libcrypto has no HMAC with SHA-256");
    ctx_free(trial);
    return PyModule_Create(&definition);
}
