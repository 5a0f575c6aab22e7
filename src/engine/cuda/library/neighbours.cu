// Attention of each cell over the nine around it, and its gradient. A head has DEPTH channels; queries are
// read by row, keys and values by cell. Beyond a zero-padded border a key is 0, and still has a share.

// values[n] = value, without an address: registers have none.
DEVICE void put(float (&values)[9], int n, float value) {
    for (int i = 0; i < 9; i++) values[i] = i == n ? value : values[i];
}

// The products of one row and head: store(n, sum over c of f(c) g(cell of neighbour n, c)).
template <int DEPTH, class Own, class Near, class Store>
DEVICE void each_product(const int* near, int lane, Own f, Near g, Store store) {
#pragma unroll 1
    for (int n = 0; n < 9; n++) {
        float product = 0.0f;
        // Beyond the border the second factor is 0, which makes NaN of an infinity.
        for (int c = lane; c < DEPTH; c += TEAM) product += f(c) * (near[n] >= 0 ? g(near[n], c) : 0.0f);
        store(n, team_sum(product));
    }
}

// The shares of one row and head: the softmax of q k / sqrt(DEPTH).
template <int DEPTH, class Query, class Key>
DEVICE void shares_of(float (&shares)[9], const int* near, int lane, Query query, Key key) {
    each_product<DEPTH>(near, lane, query, key,
        [&](int n, float product) { put(shares, n, product * (1.0f / sqrtf((float)DEPTH))); });
    float most = shares[0], sum = 0.0f;
    for (int n = 1; n < 9; n++) most = shares[n] > most ? shares[n] : most;
    for (int n = 0; n < 9; n++) {
        shares[n] = expf(shares[n] - most);
        sum += shares[n];
    }
    for (int n = 0; n < 9; n++) shares[n] /= sum;
}

// store(row, channel, value) with the shares of values.
template <int DEPTH, int HEADS, class Query, class Key, class Value, class Store>
DEVICE void attention(const Rows& rows, const int* near, Query query, Key key, Value value, Store store) {
    each_team(rows.count * HEADS, [&](int task, int lane, bool is_real) {
        int row = task / HEADS, first = task % HEADS * DEPTH;
        const int* around = near + 9 * row;
        float shares[9] = {};
        shares_of<DEPTH>(shares, around, lane, [&](int c) { return query(row, first + c); },
            [&](int cell, int c) { return key(cell, first + c); });
#pragma unroll 2
        for (int c = lane; is_real && c < DEPTH; c += TEAM) {
            float sum = 0.0f;
            for (int n = 0; n < 9; n++) {
                if (around[n] >= 0) sum += shares[n] * value(around[n], first + c);
            }
            store(row, first + c, sum);
        }
    });
}

// store(row, 9 head + n, share of neighbour n).
template <int DEPTH, int HEADS, class Query, class Key, class Store>
DEVICE void attention_shares(const Rows& rows, const int* near, Query query, Key key, Store store) {
    each_team(rows.count * HEADS, [&](int task, int lane, bool is_real) {
        int row = task / HEADS, head = task % HEADS;
        float shares[9] = {};
        shares_of<DEPTH>(shares, near + 9 * row, lane, [&](int c) { return query(row, head * DEPTH + c); },
            [&](int cell, int c) { return key(cell, head * DEPTH + c); });
        for (int n = lane; is_real && n < 9; n += TEAM) {
            float share = shares[0];
            for (int other = 1; other < 9; other++) share = n == other ? shares[other] : share;
            store(row, 9 * head + n, share);
        }
    });
}

// store(row, 9 head + n, gradient of the product of query and key), given that of the result.
template <int DEPTH, int HEADS, class Share, class Value, class Gradient, class Store>
DEVICE void attention_gradients(
    const Rows& rows, const int* near, Share share, Value value, Gradient gradient, Store store) {
    each_team(rows.count * HEADS, [&](int task, int lane, bool is_real) {
        int row = task / HEADS, head = task % HEADS;
        const int* around = near + 9 * row;
        float of_shares[9] = {}, mean = 0.0f;
        each_product<DEPTH>(around, lane, [&](int c) { return gradient(row, head * DEPTH + c); },
            [&](int cell, int c) { return value(cell, head * DEPTH + c); }, [&](int n, float product) {
                put(of_shares, n, product);
                mean += share(row, 9 * head + n) * product;
            });
        for (int n = 0; n < 9; n++) {
            float of_product = share(row, 9 * head + n) * (of_shares[n] - mean) * (1.0f / sqrtf((float)DEPTH));
            if (is_real && lane == n % TEAM) store(row, 9 * head + n, of_product);
        }
    });
}
