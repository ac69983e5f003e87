// In the place of packages that the tests do without. Directus compresses its cache with `snappy`;
// here it does not.
exports.compress = exports.uncompress = async (data) => data;
